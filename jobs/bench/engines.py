"""Exact k-NN from FAISS candidates against torch candidates: the lists must be equal, and the faster side is named."""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from jobs.bench.comparison import Comparison, Subject, at_most, compared, unit_on
from jobs.bench.data import curved
from jobs.bench.knn import K
from jobs.bench.scale import Knn, Scale
from jobs.bench.timing import interleaved, timed
from pipeline.geometry.candidates import default_engine, faiss_engine, torch_engine
from pipeline.geometry.exact_distances import DISTANCE_TOLERANCE
from pipeline.geometry.neighbors import build_exact_graph

FAISS, TORCH = "FAISS", "torch"


def rows(scale: Scale, device: str) -> Iterator[Comparison]:
    """Yield one row per point cloud; yield none if FAISS is not installed for the device."""
    if default_engine(torch.device(device), max(size.n for size in scale.knn)) is faiss_engine:
        for size in scale.knn:
            yield _compare(size, device)


def _compare(size: Knn, device: str) -> Comparison:
    points = curved(size.n, size.dim, device)
    engines = {FAISS: faiss_engine, TORCH: torch_engine}
    contenders = {
        name: timed(lambda engine=engine: build_exact_graph(points, K, engine=engine), device)
        for name, engine in engines.items()
    }
    took, unit = interleaved(contenders, size.rounds), unit_on(device)
    subject = Subject("engines", f"k-NN certified from FAISS candidates, k={K}", size.n, size.dim)
    row = compared(subject, took[FAISS], TORCH, took[TORCH], at_most(), unit)
    return replace(row, note=f"{_agreement(points)}; {FAISS if row.ratio < 1 else TORCH} is faster")


def _agreement(points: Tensor) -> str:
    """Compare the neighbour lists of both engines, and describe the result.

    The engines may return different indices only where neighbours have equal distances within the error.

    Raises:
        RuntimeError: a distance differs by more than both errors allow.
    """
    ours, theirs = (build_exact_graph(points, K, engine=engine) for engine in (faiss_engine, torch_engine))
    far = (ours.distances - theirs.distances).abs() > 2 * DISTANCE_TOLERANCE * theirs.distances
    moved = int((ours.indices != theirs.indices).sum())
    if bool(far.any()):
        raise RuntimeError(f"{len(points)} x {points.shape[1]}: FAISS and torch differ at {int(far.sum())} ranks")
    return "lists equal" if not moved else f"lists equal except {moved} ranks in near-ties"
