"""Engines that propose nearest neighbours: FAISS in float32, or tiled torch products in the dtype of the points.

Both compute |x|^2 + |y|^2 - 2 x.y, so their distances carry a cancellation error; `neighbors` never returns them.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from importlib import import_module
from types import ModuleType
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.geometry.chunking import chunk_slices, select_rows
from pipeline.geometry.precision import full_precision, upcast_to_float32

try:
    import faiss as _faiss
except ImportError:
    _faiss = None
else:
    # The same lists sooner, by a twentieth to a half: products in tiles of 4 MB, which every thread has in the cache,
    # and a reservoir per query instead of a heap.
    _faiss.cvar.distance_compute_blas_query_bs = 512
    _faiss.cvar.distance_compute_blas_database_bs = 2048
    _faiss.cvar.distance_compute_min_k_reservoir = 1

FAISS_GPU_MAX_K = 2048
"""Largest k of FAISS on a GPU."""
PRODUCT_BYTES = {"cpu": 2**24, "cuda": 2**30}
"""Of a matrix product's result. On the CPU as much as stays in the cache."""
BFLOAT16_MIN_DIM = 256
"""On a GPU FAISS selects in one pass over the products where torch takes about five, but multiplies in float32 alone.

At 52 TFLOP/s in float32 and 400 in bfloat16, and 4 TB/s, the two break even near 170 dimensions (arithmetic, not
measured).
"""


class Candidates(NamedTuple):
    """Of each query its `width` nearest points by approximate squared distance, in no particular order."""

    squared_distances: Float[Tensor, "rows width"]
    """float32, or float64 for points in float64."""
    indices: Int[Tensor, "rows width"]


CandidateEngine = Callable[[Tensor, Tensor, int], Candidates]
"""(queries, points, width) -> the `width` nearest points of each query; a query that is a point proposes itself."""


def default_engine(device: torch.device) -> CandidateEngine:
    """FAISS on the device where the installed one can, else torch."""
    if _faiss is None or (device.type == "cuda" and not _has_gpu(_faiss)):
        return torch_engine
    return faiss_engine


def default_ladder(device: torch.device, dim: int) -> tuple[tuple[CandidateEngine, torch.dtype], ...]:
    """Engines to be tried one after the other, each with the dtype that points are rounded to for it.

    Wide points on a GPU are multiplied in bfloat16 first, eight times as fast as in float32.
    """
    if device.type == "cuda" and dim >= BFLOAT16_MIN_DIM:
        return (torch_engine, torch.bfloat16), (torch_engine, torch.float32)
    return ((default_engine(device), torch.float32),)


def faiss_engine(queries: Float[Tensor, "rows dim"], points: Float[Tensor, "points dim"], width: int) -> Candidates:
    """`faiss.knn` on the CPU, `faiss.knn_gpu` on a GPU (float32, no TF32)."""
    if _faiss is None:
        raise ModuleNotFoundError("faiss is not installed")
    if queries.device.type == "cuda":
        if width > FAISS_GPU_MAX_K:
            return torch_engine(queries, points, width)
        return _faiss_gpu(_faiss, queries, points, width)
    return _faiss_cpu(_faiss, queries.float(), points.float(), width)


def faiss_squared_distances(
    points: Float[Tensor, "points dim"], rows: Int[Tensor, " rows"], others: Int[Tensor, "rows width"]
) -> Float[Tensor, "rows width"] | None:
    """Squared distances from each of `points[rows]` to its others by float32 differences; None where FAISS has none.

    Nothing is gathered, which is what makes it eight times as fast as torch.
    """
    if _faiss is None or points.device.type != "cpu":
        return None
    squared = torch.empty(others.shape)
    arrays = (squared, select_rows(points, rows), points, others.contiguous())
    pointers = (_faiss.swig_ptr(array.numpy()) for array in arrays)
    _faiss.fvec_L2sqr_by_idx(*pointers, points.shape[1], *others.shape)  # pyright: ignore[reportAttributeAccessIssue]
    return squared


def torch_engine(queries: Float[Tensor, "rows dim"], points: Float[Tensor, "points dim"], width: int) -> Candidates:
    """One matrix product and one selection per tile, in the dtype of the operands.

    bfloat16 and float16 points count as exact: their products are summed, and their lengths taken, in float32.
    """
    lengths, own = _squared_lengths(points), _squared_lengths(queries)
    found = []
    with full_precision():
        for part in chunk_slices(
            len(queries), len(points) * lengths.element_size(), PRODUCT_BYTES[queries.device.type]
        ):
            nearest = _product_less(lengths, queries[part], points).topk(width, dim=1, largest=False, sorted=False)
            found.append(Candidates(nearest.values + own[part, None], nearest.indices))
    return Candidates(*(torch.cat(parts) for parts in zip(*found, strict=True)))


def _squared_lengths(points: Tensor) -> Float[Tensor, " points"]:
    return upcast_to_float32(points).square().sum(1)


def _product_less(lengths: Tensor, queries: Tensor, points: Tensor) -> Float[Tensor, "rows points"]:
    """|y|^2 - 2 x.y, which orders the points y as their distance from x does."""
    if queries.dtype == lengths.dtype:
        return torch.addmm(lengths[None], queries, points.T, alpha=-2)
    if queries.device.type == "cpu":  # which has no product of 16-bit operands that keeps its sums
        return torch.addmm(lengths[None], queries.to(lengths.dtype), points.to(lengths.dtype).T, alpha=-2)
    products = torch.mm(queries, points.T, out_dtype=lengths.dtype)  # pyright: ignore[reportCallIssue]
    return torch.sub(lengths[None], products, alpha=2, out=products)


def direct_engine(queries: Float[Tensor, "rows dim"], points: Float[Tensor, "points dim"], width: int) -> Candidates:
    """Every distance by differences: no cancellation, and an order of magnitude slower than a product."""
    found = []
    for part in chunk_slices(len(queries), len(points) * queries.element_size(), PRODUCT_BYTES[queries.device.type]):
        distances = torch.cdist(queries[part], points, compute_mode="donot_use_mm_for_euclid_dist")
        found.append(distances.square_().topk(width, dim=1, largest=False, sorted=False))
    return Candidates(torch.cat([f.values for f in found]), torch.cat([f.indices for f in found]))


def _has_gpu(faiss: ModuleType) -> bool:
    # Without the check FAISS aborts the process on a machine without a GPU.
    return hasattr(faiss, "knn_gpu") and faiss.get_num_gpus() > 0


def _faiss_cpu(faiss: ModuleType, queries: Tensor, points: Tensor, width: int) -> Candidates:
    """A part of the queries for each thread; FAISS's own threads would wait for one another at every tile."""
    threads = torch.get_num_threads()
    with ThreadPoolExecutor(threads, initializer=faiss.omp_set_num_threads, initargs=(1,)) as pool:
        search = partial(faiss.knn, xb=points.numpy(), k=width)
        found = pool.map(search, (part.numpy() for part in queries.tensor_split(threads)))
    squared, indices = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return Candidates(torch.from_numpy(squared), torch.from_numpy(indices))


def _faiss_gpu(faiss: ModuleType, queries: Tensor, points: Tensor, width: int) -> Candidates:
    import_module("faiss.contrib.torch_utils")  # teaches knn_gpu to take torch tensors
    squared, indices = faiss.knn_gpu(
        _gpu_resources(faiss), queries.float(), points.float(), width, device=queries.device.index
    )
    return Candidates(squared, indices)


@cache
def _gpu_resources(faiss: ModuleType) -> object:
    """FAISS's streams and work space, 1.5 GiB of the device; made once per process."""
    return faiss.StandardGpuResources()
