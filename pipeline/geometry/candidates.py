"""Engines that propose nearest neighbours: FAISS in float32, or tiled torch products in the dtype of the points.

Both compute |x|^2 + |y|^2 - 2 x.y, which suffers from cancellation; `exact_search` recomputes every distance.
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
    # Equal results, 5 % to 50 % faster: products in tiles of 4 MB, which fit into each thread's cache, and one
    # reservoir per query instead of a heap.
    _faiss.cvar.distance_compute_blas_query_bs = 512
    _faiss.cvar.distance_compute_blas_database_bs = 2048
    _faiss.cvar.distance_compute_min_k_reservoir = 1

SMALL_CLOUD = 2048
"""Largest number of points for which numpy beats FAISS on a CPU. One thread of an AMD EPYC, k = 73: 1,024 points
take 10 ms with numpy and 24 ms with FAISS at 64 dimensions, 22 and 30 ms at 576; 4,096 points take equal times."""
FAISS_GPU_MAX_K = 2048
"""Largest k of FAISS on a GPU."""
PRODUCT_BYTES = {"cpu": 2**24, "cuda": 2**30}
"""Size of one tile of products by device; on the CPU a tile fits into the cache."""
BFLOAT16_MIN_DIM = 256
"""Minimum dim at which a GPU starts with bfloat16 torch products instead of FAISS.

FAISS selects in one pass over the products, and torch in about five, but FAISS multiplies only in float32. At 52
TFLOP/s in float32, 400 in bfloat16 and 4 TB/s, both take equal times near 170 dimensions (computed, not measured).
"""


class Candidates(NamedTuple):
    """The `width` nearest points of each query by approximate squared distance, unordered."""

    squared_distances: Float[Tensor, "rows width"]
    """Approximate squared distances, float32, or float64 for points in float64."""
    indices: Int[Tensor, "rows width"]


CandidateEngine = Callable[[Tensor, Tensor, int], Candidates]
"""Maps (queries, points, width) to the `width` nearest points of each query; a query that is a point finds itself."""


def default_engine(device: torch.device, n_points: int) -> CandidateEngine:
    """Return the torch engine for a small cloud on a CPU or a device that FAISS does not support; else FAISS."""
    if _faiss is None or (device.type == "cpu" and n_points <= SMALL_CLOUD):
        return torch_engine
    return torch_engine if device.type == "cuda" and not _has_gpu(_faiss) else faiss_engine


def default_ladder(device: torch.device, n_points: int, dim: int) -> tuple[tuple[CandidateEngine, torch.dtype], ...]:
    """Return the engines to try in order, each with the dtype to which points are rounded for it.

    Wide points on a GPU are multiplied in bfloat16 first, which is eight times as fast as float32.
    """
    if device.type == "cuda" and dim >= BFLOAT16_MIN_DIM:
        return (torch_engine, torch.bfloat16), (torch_engine, torch.float32)
    return ((default_engine(device, n_points), torch.float32),)


def faiss_engine(queries: Float[Tensor, "rows dim"], points: Float[Tensor, "points dim"], width: int) -> Candidates:
    """Propose candidates with `faiss.knn` (on a GPU `faiss.knn_gpu`) in float32; ModuleNotFoundError without FAISS."""
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
    """Return squared distances from `points[rows]` to `points[others]`, row by row, by float32 differences.

    Eight times as fast as torch, because FAISS does not gather rows. None without FAISS or for points on a GPU.
    """
    if _faiss is None or points.device.type != "cpu":
        return None
    squared = torch.empty(others.shape)
    arrays = (squared, select_rows(points, rows), points, others.contiguous())
    pointers = (_faiss.swig_ptr(array.numpy()) for array in arrays)
    _faiss.fvec_L2sqr_by_idx(*pointers, points.shape[1], *others.shape)  # pyright: ignore[reportAttributeAccessIssue]
    return squared


def torch_engine(queries: Float[Tensor, "rows dim"], points: Float[Tensor, "points dim"], width: int) -> Candidates:
    """Propose candidates by one matrix product and one selection per tile, in the dtype of the operands.

    bfloat16 and float16 points are treated as exact: products and squared lengths accumulate in float32.
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
    """Return |y|^2 - 2 x.y, which orders points y by their distance from x."""
    if queries.dtype == lengths.dtype:
        return torch.addmm(lengths[None], queries, points.T, alpha=-2)
    if queries.device.type == "cpu":  # CPUs have no 16-bit product with float32 sums
        return torch.addmm(lengths[None], queries.to(lengths.dtype), points.to(lengths.dtype).T, alpha=-2)
    products = torch.mm(queries, points.T, out_dtype=lengths.dtype)  # pyright: ignore[reportCallIssue]
    return torch.sub(lengths[None], products, alpha=2, out=products)


def direct_engine(queries: Float[Tensor, "rows dim"], points: Float[Tensor, "points dim"], width: int) -> Candidates:
    """Propose candidates by differences: no cancellation, but an order of magnitude slower than a product."""
    found = []
    for part in chunk_slices(len(queries), len(points) * queries.element_size(), PRODUCT_BYTES[queries.device.type]):
        distances = torch.cdist(queries[part], points, compute_mode="donot_use_mm_for_euclid_dist")
        found.append(distances.square_().topk(width, dim=1, largest=False, sorted=False))
    return Candidates(torch.cat([f.values for f in found]), torch.cat([f.indices for f in found]))


def _has_gpu(faiss: ModuleType) -> bool:
    # FAISS aborts the process on a machine without a GPU.
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
    """Return FAISS's streams and workspace, 1.5 GiB of device memory, cached per process."""
    return faiss.StandardGpuResources()
