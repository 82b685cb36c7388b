"""Engines that propose candidates for the nearest neighbours of points.

`faiss_engine` (float32) and `torch_engine` (dtype of the points) compute |x|^2 + |y|^2 - 2 x.y from matrix products,
which loses digits to cancellation. `direct_engine` computes differences, which is slow. `exact_search` computes the
distance of every candidate again.
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
    # These settings make the search 5 % to 50 % faster and do not change its results. Products are computed in tiles
    # of 4 MB, which fit into the cache of each thread, and each query has a reservoir instead of a heap.
    _faiss.cvar.distance_compute_blas_query_bs = 512
    _faiss.cvar.distance_compute_blas_database_bs = 2048
    _faiss.cvar.distance_compute_min_k_reservoir = 1

SMALL_CLOUD = 2048
"""Largest number of points for which `torch_engine`, which selects with numpy, is faster than FAISS on a CPU. Measured
with one thread of an AMD EPYC and k = 73: 1,024 points take 10 ms with numpy and 24 ms with FAISS at 64 dimensions, and
22 ms and 30 ms at 576 dimensions. With 4,096 points, both take equal times."""
FAISS_GPU_MAX_K = 2048
"""Largest number of neighbours that FAISS can return on a GPU; for more, `torch_engine` is used."""
PRODUCT_BYTES = {"cpu": 2**24, "cuda": 2**30}
"""Bytes of one tile of a matrix product, by device type; on the CPU, a tile fits into the cache."""
BFLOAT16_MIN_DIM = 256
"""Smallest number of dimensions at which a search on a GPU starts with bfloat16 products of torch instead of FAISS.

FAISS selects the nearest points in one pass over the products, and torch needs about five passes; but torch can
multiply in bfloat16, and FAISS only in float32. On a GPU with 52 TFLOP/s in float32, 400 TFLOP/s in bfloat16 and 4 TB/s
of memory bandwidth, both take equal times near 170 dimensions (computed, not measured).
"""


class Candidates(NamedTuple):
    """The `width` nearest points of each query by approximate squared distance, in no order; one row per query."""

    squared_distances: Float[Tensor, "rows width"]
    """Approximate squared distances, float32, or float64 for points in float64."""
    indices: Int[Tensor, "rows width"]
    """Indices of these nearest points."""


CandidateEngine = Callable[[Tensor, Tensor, int], Candidates]
"""Function of (queries, points, width) that returns the `width` nearest points of each query. Queries are usually some
of the points; the query itself is then one of its own nearest points."""


def default_engine(device: torch.device, n_points: int) -> CandidateEngine:
    """Return `faiss_engine`; or `torch_engine` for few points on a CPU, or without FAISS for this type of device."""
    if _faiss is None or (device.type == "cpu" and n_points <= SMALL_CLOUD):
        return torch_engine
    return torch_engine if device.type == "cuda" and not _has_gpu(_faiss) else faiss_engine


def default_ladder(device: torch.device, n_points: int, dim: int) -> tuple[tuple[CandidateEngine, torch.dtype], ...]:
    """Return pairs (engine, dtype to which points are rounded for it), in the order in which engines are tried.

    Points of BFLOAT16_MIN_DIM or more dimensions on a GPU are first multiplied in bfloat16, which is eight times as
    fast as float32.
    """
    if device.type == "cuda" and dim >= BFLOAT16_MIN_DIM:
        return (torch_engine, torch.bfloat16), (torch_engine, torch.float32)
    return ((default_engine(device, n_points), torch.float32),)


def faiss_engine(queries: Float[Tensor, "rows dim"], points: Float[Tensor, "points dim"], width: int) -> Candidates:
    """Propose candidates with FAISS in float32; on a GPU, a width above FAISS_GPU_MAX_K goes to `torch_engine`.

    Raises:
        ModuleNotFoundError: FAISS is not installed.
    """
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
    """Return at [i, j] the squared distance from `points[rows[i]]` to `points[others[i, j]]`, by float32 differences.

    The result is None if FAISS is not installed or the points are on a GPU. FAISS is eight times as fast as torch here,
    because it does not copy the rows first.
    """
    if _faiss is None or points.device.type != "cpu":
        return None
    squared = torch.empty(others.shape)
    arrays = (squared, select_rows(points, rows), points, others.contiguous())
    pointers = (_faiss.swig_ptr(array.numpy()) for array in arrays)
    _faiss.fvec_L2sqr_by_idx(*pointers, points.shape[1], *others.shape)  # pyright: ignore[reportAttributeAccessIssue]
    return squared


def torch_engine(queries: Float[Tensor, "rows dim"], points: Float[Tensor, "points dim"], width: int) -> Candidates:
    """Propose candidates by matrix products in the dtype of the points: one product and one selection per tile.

    For bfloat16 and float16 points, the products and the squared lengths are accumulated in float32.
    """
    lengths, own = _squared_lengths(points), _squared_lengths(queries)
    tiles = []
    with full_precision():
        for part in chunk_slices(
            len(queries), len(points) * lengths.element_size(), PRODUCT_BYTES[queries.device.type]
        ):
            distances, indices = _select_smallest(_relative_distances(lengths, queries[part], points), width)
            tiles.append(Candidates(distances + own[part, None], indices))
    return Candidates(*(torch.cat(parts) for parts in zip(*tiles, strict=True)))


def _select_smallest(
    values: Float[Tensor, "rows points"], width: int
) -> tuple[Float[Tensor, "rows width"], Int[Tensor, "rows width"]]:
    """Return the `width` smallest values of each row, unordered, and their columns."""
    if values.device.type == "cpu":  # numpy's partition is vectorised, unlike torch's
        columns = torch.from_numpy(np.argpartition(values.numpy(), width - 1, axis=1)[:, :width])
        return values.gather(1, columns), columns
    nearest = values.topk(width, dim=1, largest=False, sorted=False)
    return nearest.values, nearest.indices


def _squared_lengths(points: Tensor) -> Float[Tensor, " points"]:
    return upcast_to_float32(points).square().sum(1)


def _relative_distances(lengths: Tensor, queries: Tensor, points: Tensor) -> Float[Tensor, "rows points"]:
    """Return |y|^2 - 2 x.y for each query x and point y, which orders the points y by their distance from x."""
    if queries.dtype == lengths.dtype:
        return torch.addmm(lengths[None], queries, points.T, alpha=-2)
    if queries.device.type == "cpu":  # CPUs have no 16-bit product with float32 sums
        return torch.addmm(lengths[None], queries.to(lengths.dtype), points.to(lengths.dtype).T, alpha=-2)
    products = torch.mm(queries, points.T, out_dtype=lengths.dtype)  # pyright: ignore[reportCallIssue]
    return torch.sub(lengths[None], products, alpha=2, out=products)


def direct_engine(queries: Float[Tensor, "rows dim"], points: Float[Tensor, "points dim"], width: int) -> Candidates:
    """Propose candidates by distances from differences: without cancellation, but ten times as slow as products."""
    found = []
    for part in chunk_slices(len(queries), len(points) * queries.element_size(), PRODUCT_BYTES[queries.device.type]):
        distances = torch.cdist(queries[part], points, compute_mode="donot_use_mm_for_euclid_dist")
        found.append(distances.square_().topk(width, dim=1, largest=False, sorted=False))
    return Candidates(torch.cat([f.values for f in found]), torch.cat([f.indices for f in found]))


def _has_gpu(faiss: ModuleType) -> bool:
    # Without a GPU, a search of FAISS for GPUs would abort the process.
    return hasattr(faiss, "knn_gpu") and faiss.get_num_gpus() > 0


def _faiss_cpu(faiss: ModuleType, queries: Tensor, points: Tensor, width: int) -> Candidates:
    """Search with one thread per part of the queries, because FAISS's own threads synchronise at every tile."""
    threads = torch.get_num_threads()
    with ThreadPoolExecutor(threads, initializer=faiss.omp_set_num_threads, initargs=(1,)) as pool:
        search = partial(faiss.knn, xb=points.numpy(), k=width)
        found = pool.map(search, (part.numpy() for part in queries.tensor_split(threads)))
    squared, indices = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return Candidates(torch.from_numpy(squared), torch.from_numpy(indices))


def _faiss_gpu(faiss: ModuleType, queries: Tensor, points: Tensor, width: int) -> Candidates:
    import_module("faiss.contrib.torch_utils")  # makes knn_gpu accept torch tensors
    squared, indices = faiss.knn_gpu(
        _gpu_resources(faiss), queries.float(), points.float(), width, device=queries.device.index
    )
    return Candidates(squared, indices)


@cache
def _gpu_resources(faiss: ModuleType) -> object:
    """Return the streams and the workspace of FAISS, which take 1.5 GiB of device memory; cached per process."""
    return faiss.StandardGpuResources()
