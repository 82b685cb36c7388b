"""The peers: scikit-dimension and scikit-learn from `.venv`, the authors' functions and DADApy from `.bench/`."""

import json
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn import functional

from jobs.bench.timing import Took, now, timed

FOLDER = Path(__file__).resolve().parents[2] / ".bench"
"""Filled by `make bench`; a peer that is not there is left out and named."""
PUBLISHED = FOLDER / "authors" / "llm_microscope" / "functions.py"
PYTHON = FOLDER / "dadapy" / "bin" / "python"
INSTALLED = FOLDER / "dadapy" / ".ready"
CHILD = Path(__file__).parent / "dadapy_child.py"
AUTHORS, TWONN, SKLEARN, DADAPY = "authors' loop", "scikit-dimension TwoNN", "scikit-learn", "DADApy"


def absent() -> list[str]:
    """Peers that `make bench` would install."""
    return [name for name, place in {AUTHORS: PUBLISHED, DADAPY: INSTALLED}.items() if not place.exists()]


@cache
def authors() -> ModuleType:
    """The published functions, as they lie in their file."""
    spec = spec_from_file_location("llm_microscope_functions", PUBLISHED)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def authors_loop(points: Tensor, n: int) -> Took:
    """The authors' `intrinsic_dimension` left after `n` of its points, scaled up to all of them.

    Its loop calls `pairwise_distance` once per point: from one call to the next is what a point takes.
    """
    with _called(n + 1) as calls, suppress(_Enough):
        authors().intrinsic_dimension(points, points.device)
    first, last = calls[0], calls[-1]
    return Took(last.wall - first.wall, last.cpu - first.cpu).times(len(points) / n)


def twonn(points: Tensor) -> float:
    """scikit-dimension's TwoNN."""
    from skdim.id import TwoNN

    return float(TwoNN().fit(points.numpy()).dimension_)


def sklearn_neighbors(points: Tensor, k: int, queries: int) -> Took:
    """scikit-learn's NearestNeighbors by brute force, the fastest it has in such dimensions, scaled up from a slice."""
    from sklearn.neighbors import NearestNeighbors

    array, some = points.numpy(), points[:queries].numpy()
    search = timed(lambda: NearestNeighbors(n_neighbors=k + 1, algorithm="brute").fit(array).kneighbors(some))
    return search().times(len(array) / len(some))


def dadapy_neighbors(points: Tensor, k: int) -> Took:
    """DADApy's distances, timed by a child in an environment of its own: it needs an older numpy."""
    import numpy as np

    with tempfile.NamedTemporaryFile(suffix=".npy") as file:
        np.save(file, points.numpy())
        file.flush()
        threads = str(torch.get_num_threads())
        done = subprocess.run(
            [str(PYTHON), str(CHILD), file.name, str(k), threads], stdout=subprocess.PIPE, text=True, check=True
        )
    return Took(**json.loads(done.stdout.splitlines()[-1]))


def versions() -> dict[str, str]:
    """Of the peers in `.bench/`."""
    found = {"llm-microscope": _wheel(PUBLISHED.parent.parent, "llm_microscope")}
    found["DADApy"] = _wheel(FOLDER / "dadapy" / "lib", "dadapy")
    return {name: version for name, version in found.items() if version}


def _wheel(folder: Path, package: str) -> str | None:
    """Version of the package installed somewhere below the folder."""
    found = next(folder.rglob(f"{package}-*.dist-info"), None)
    return found and found.name.removeprefix(f"{package}-").removesuffix(".dist-info")


class _Enough(Exception):
    """Ends the authors' loop."""


@contextmanager
def _called(limit: int) -> Iterator[list[Took]]:
    """The times at which `pairwise_distance` is called; the call that reaches the limit raises."""
    original, calls = functional.pairwise_distance, []

    def counted(*words: Any, **names: Any) -> Tensor:
        calls.append(now(words[0].device.type))
        if len(calls) == limit:
            raise _Enough
        return original(*words, **names)

    with patch.object(functional, "pairwise_distance", counted):
        yield calls
