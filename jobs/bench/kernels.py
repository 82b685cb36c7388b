"""Kernels of one layer against their roofline on this machine.

The floor is the larger of two times: that of the operations at the rate of a large product, and that of the bytes at
the rate of a large copy. Both rates are measured in the same rounds as the kernel. A kernel whose data fit in the cache
may take less than the time of the bytes.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from jobs.bench.comparison import Comparison, Subject, Wanted, at_most, compared, unit_on
from jobs.bench.data import curved
from jobs.bench.scale import Knn, Scale
from jobs.bench.timing import Contender, Took, interleaved, timed
from pipeline.geometry.exact_distances import pair_distances
from pipeline.geometry.moment_stream import BLOCK_ROWS
from pipeline.geometry.moments import Moments
from pipeline.geometry.precision import full_precision, product_dtype

LISTED = 72
"""Number of neighbours per point whose distances are recomputed: that of the candidates of a search with k = 64."""
SIDE = 2048
"""Side of the square product whose rate is measured."""
COPIED = 2**28
"""Number of bytes that are copied to measure the rate of the memory; it exceeds the size of any cache."""
REPORTED: Wanted = at_most()


def rows(scale: Scale, device: str) -> Iterator[Comparison]:
    yield _scatter(scale.spectrum, device)
    yield _differences(scale.layer, device)


def _scatter(size: Knn, device: str) -> Comparison:
    """Compare the moments with their roofline: N d^2 operations, and one read of each float64 coordinate.

    The operations are half of those of a full product, since the scatter matrix is symmetric.
    """
    points = curved(size.n, size.dim, device).to(torch.float64)
    dtype = product_dtype(device)
    floor = roofline(size.n * size.dim**2, points.nbytes, dtype, device)
    took = interleaved({"floor": floor, "ours": timed(lambda: _moments(points), device)}, size.rounds)
    subject = Subject("kernels", "moments, block by block", size.n, size.dim)
    return compared(subject, took["ours"], _named(dtype), took["floor"], REPORTED, unit_on(device))


def _moments(points: Tensor) -> Moments:
    moments = Moments.empty(points.new_zeros(points.shape[1]))
    for block in points.split(BLOCK_ROWS):
        moments.add_rows(block)
    return moments


def _differences(size: Knn, device: str) -> Comparison:
    """Compare exact distances with their roofline: 3 operations on each coordinate of each pair, and one read of it."""
    points, index = curved(size.n, size.dim, device), torch.arange(size.n, device=device)
    others = (index[:, None] + torch.randint(1, size.n, (size.n, LISTED)).to(device)) % size.n
    pairs = others.numel() * size.dim
    floor = roofline(3 * pairs, pairs * points.element_size(), torch.float32, device)
    ours = timed(lambda: pair_distances(points, index, others), device)
    took = interleaved({"floor": floor, "ours": ours}, size.rounds)
    subject = Subject("kernels", f"exact distances to {LISTED} neighbours", size.n, size.dim)
    return compared(subject, took["ours"], _named(torch.float32), took["floor"], REPORTED, unit_on(device))


def roofline(operations: float, n_bytes: float, dtype: torch.dtype, device: str) -> Contender:
    """Return a contender that measures both rates, and gives the larger of the times of operations and bytes."""
    square = torch.ones(SIDE, SIDE, dtype=dtype, device=device)
    source = torch.zeros(COPIED, dtype=torch.int8, device=device)
    product, into = torch.empty_like(square), torch.empty_like(source)
    multiply = timed(lambda: torch.mm(square, square, out=product), device)
    copy = timed(lambda: into.copy_(source), device)

    def contend() -> Took:
        with full_precision():
            by_operations = multiply().times(operations / (2 * SIDE**3))
        return max(by_operations, copy().times(n_bytes / (2 * COPIED)))

    return contend


def _named(dtype: torch.dtype) -> str:
    return f"{str(dtype).removeprefix('torch.')} roofline"
