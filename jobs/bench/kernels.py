"""Each kernel of a layer beside what its operations and its bytes cost at least on this machine.

A floor is the larger of two times: so many operations at the rate of a large product, so many bytes at that of a large
copy, both measured in the same rounds. What stays in a cache may beat the second.
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
"""Neighbours whose distances are taken again: those that a search with k = 64 lists."""
SIDE = 2048
"""Of the square product from which a rate is taken."""
COPIED = 2**28
"""Bytes: more than any cache holds."""
REPORTED: Wanted = at_most()


def rows(scale: Scale, device: str) -> Iterator[Comparison]:
    yield _scatter(scale.spectrum, device)
    yield _differences(scale.layer, device)


def _scatter(size: Knn, device: str) -> Comparison:
    """N d^2 operations, the half of a product that is symmetric, and every coordinate read once in float64."""
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
    """3 operations for each coordinate of each pair, and the one that is gathered read once."""
    points, index = curved(size.n, size.dim, device), torch.arange(size.n, device=device)
    others = (index[:, None] + torch.randint(1, size.n, (size.n, LISTED)).to(device)) % size.n
    pairs = others.numel() * size.dim
    floor = roofline(3 * pairs, pairs * points.element_size(), torch.float32, device)
    ours = timed(lambda: pair_distances(points, index, others), device)
    took = interleaved({"floor": floor, "ours": ours}, size.rounds)
    subject = Subject("kernels", f"distances to {LISTED} neighbours by differences", size.n, size.dim)
    return compared(subject, took["ours"], _named(torch.float32), took["floor"], REPORTED, unit_on(device))


def roofline(operations: float, n_bytes: float, dtype: torch.dtype, device: str) -> Contender:
    """The larger of what the operations and what the bytes take."""
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
    return f"floor of its {str(dtype).removeprefix('torch.')} operations and bytes"
