"""Fixtures of the model tests: tiny checkpoints, created once per session."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function from the name of a tiny model to its checkpoint folder, which is read-only."""
    from tests.support import tiny_models

    root = tmp_path_factory.mktemp("tiny")
    return lambda name: root / name if (root / name).exists() else tiny_models.save(name, root / name)


@pytest.fixture
def ids() -> Tensor:
    """Three contexts of 13 tokens, not a multiple of any SIMD width, without special ids of any config."""
    return torch.randint(5, 99, (3, 13), generator=torch.Generator().manual_seed(1))


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Run on one thread: tiny matrices gain nothing from a second one and would wait on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
