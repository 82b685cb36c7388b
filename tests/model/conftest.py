"""Tiny checkpoints, made once for all files here."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Checkpoint folder of the tiny model of a name; not to be written to."""
    from tests.model import tiny

    root = tmp_path_factory.mktemp("tiny")
    return lambda name: root / name if (root / name).exists() else tiny.save(name, root / name)


@pytest.fixture
def ids() -> Tensor:
    """Three contexts of 13 tokens, a length no SIMD width divides, without the special ids of any config."""
    return torch.randint(5, 99, (3, 13), generator=torch.Generator().manual_seed(1))


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Matrices this small gain nothing from a second thread, and wait long for one on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
