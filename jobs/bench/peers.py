"""Peer libraries: scikit-dimension and scikit-learn from `.venv`, the authors' functions and DADApy from `.bench/`."""

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
"""Folder filled by `make bench`; a peer absent from it is skipped and reported."""
PUBLISHED = FOLDER / "authors" / "llm_microscope" / "functions.py"
PYTHON = FOLDER / "dadapy" / "bin" / "python"
INSTALLED = FOLDER / "dadapy" / ".ready"
CHILD = Path(__file__).parent / "dadapy_child.py"
AUTHORS, TWONN, SKLEARN, DADAPY = "authors' loop", "scikit-dimension TwoNN", "scikit-learn", "DADApy"


def absent() -> list[str]:
    """Return the peers that are not installed; `make bench` installs them."""
    return [name for name, path in {AUTHORS: PUBLISHED, DADAPY: INSTALLED}.items() if not path.exists()]


@cache
def authors() -> ModuleType:
    """Import the published functions from their file."""
    spec = spec_from_file_location("llm_microscope_functions", PUBLISHED)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def authors_loop(points: Tensor, n: int) -> Took:
    """Time the authors' `intrinsic_dimension`, stopped after `n` points and scaled up to all points.

    Its loop calls `pairwise_distance` once per point, so the interval between calls is the time per point.
    """
    with _record_calls(n + 1) as calls, suppress(_LoopStopped):
        authors().intrinsic_dimension(points, points.device)
    first, last = calls[0], calls[-1]
    return Took(last.wall - first.wall, last.cpu - first.cpu).times(len(points) / n)


def twonn(points: Tensor) -> float:
    """Return the dimension that scikit-dimension's TwoNN estimates."""
    from skdim.id import TwoNN

    return float(TwoNN().fit(points.numpy()).dimension_)


def sklearn_neighbors(points: Tensor, k: int, queries: int) -> Took:
    """Time scikit-learn's brute-force search, its fastest in high dimension, on a slice of queries and scale it up."""
    from sklearn.neighbors import NearestNeighbors

    array, queried = points.numpy(), points[:queries].numpy()
    search = timed(lambda: NearestNeighbors(n_neighbors=k + 1, algorithm="brute").fit(array).kneighbors(queried))
    return search().times(len(array) / len(queried))


def dadapy_neighbors(points: Tensor, k: int) -> Took:
    """Time DADApy's distances in a child process: it needs an older numpy, hence its own environment."""
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
    """Return the version of each peer installed in `.bench/`."""
    found = {"llm-microscope": _wheel(PUBLISHED.parent.parent, "llm_microscope")}
    found["DADApy"] = _wheel(FOLDER / "dadapy" / "lib", "dadapy")
    return {name: version for name, version in found.items() if version}


def _wheel(folder: Path, package: str) -> str | None:
    """Return the version of a package installed anywhere below the folder, else None."""
    found = next(folder.rglob(f"{package}-*.dist-info"), None)
    return found and found.name.removeprefix(f"{package}-").removesuffix(".dist-info")


class _LoopStopped(Exception):
    """Raised to stop the authors' loop."""


@contextmanager
def _record_calls(limit: int) -> Iterator[list[Took]]:
    """Record the time of each call of `pairwise_distance`; call number `limit` raises _LoopStopped."""
    original, calls = functional.pairwise_distance, []

    def recording(*args: Any, **kwargs: Any) -> Tensor:
        calls.append(now(args[0].device.type))
        if len(calls) == limit:
            raise _LoopStopped
        return original(*args, **kwargs)

    with patch.object(functional, "pairwise_distance", recording):
        yield calls
