"""What one layer leaves behind, block of rows by block of rows, without a question to the device."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float32, Float64, Int64
from torch import Tensor

from pipeline.geometry.moments import Moments, RowSums, merge_moments

PILOT_NORM_ROWS = 512
NORM_SAMPLE = 2**18
"""Up to so many norms are all kept, 1 MiB per layer; of more, each block's at every so many ranks."""


@dataclass
class LayerMoments:
    """What one pass leaves of one layer, over its finite rows."""

    dtype: torch.dtype
    """In which the rows arrived."""
    group_moments: list[Moments]
    """Of all tokens, per group of contexts."""
    group_moments_no_sink: list[Moments]
    """Likewise of the tokens that are no sinks."""
    sink_sums: RowSums
    """Of the tokens that open their context or whose norm exceeds `sink_multiple` pilot medians, all groups."""
    norm_statistics: "NormStatistics"
    n_nonfinite: int
    """Rows left out of all sums."""
    pilot_norm: float
    """Median norm of the first rows; of those that are not zero where at least half are (padding)."""
    abs_max: float
    direction_sum: Float64[Tensor, " dim"]
    """Sum of x / |x|."""
    next_layer: "LayerMoments | None" = None
    """The layer to which `cross` leads."""
    cross_scatter: Float64[Tensor, "dim next"] | None = None
    """Sum of y z^T, y this layer's shifted row and z the following layer's; rows that are not finite count as zero."""

    @property
    def pooled_moments(self) -> Moments:
        """Of all tokens."""
        return merge_moments(self.group_moments)


class NormStatistics:
    """Norms of the rows: their sum, largest and number of non-zero ones, and a sample for their median.

    The sample holds every norm of up to NORM_SAMPLE rows. Of more it holds, of each block of 2048 sorted norms, those
    in the middle of every s ranks, s the power of two that is enough. The median's rank is then off by at most s / 2
    per block, all the same way; errors of either sign add up to about s / 78 of the median's own standard error (5 %
    at a million rows, below one up to 16 million).
    """

    def __init__(self, due: int, device: torch.device) -> None:
        self._every = 2 ** math.ceil(math.log2(max(due / NORM_SAMPLE, 1)))
        self._sampled: list[Tensor] = []
        self._sum, self._largest = torch.zeros(2, dtype=torch.float64, device=device)
        self._positive = torch.zeros((), dtype=torch.int64, device=device)

    def add(self, norms: Float64[Tensor, " rows"], finite: Bool[Tensor, " rows"]) -> None:
        """Add a block; rows that are not finite have the norm zero here and count for nothing."""
        self._sum += norms.sum()
        self._largest.copy_(torch.maximum(self._largest, norms.max()))
        self._positive += (norms > 0).sum()
        ranked = norms.masked_fill(~finite, torch.inf).to(torch.float32).sort().values
        middle = (self._every - 1 + len(self._sampled) % 2) // 2  # of an even number both in turn
        self._sampled.append(ranked[middle :: self._every].clone())

    @property
    def sample(self) -> Float32[Tensor, " sample"]:
        """Block by block, ascending in each."""
        norms = torch.cat(self._sampled)
        return norms[norms.isfinite()]

    @property
    def total(self) -> float:
        return float(self._sum)

    @property
    def largest(self) -> float:
        return float(self._largest)

    @property
    def n_positive(self) -> int:
        return int(self._positive)


class Accumulator:
    """The sums of one layer while rows arrive. Shift and pilot norm come from the first finite rows.

    Args:
        dtype: in which the rows arrive.
        dim: width of the layer.
        n_groups: of contexts.
        due: rows that will come.
        sink_multiple: a token is a sink if its norm exceeds this many pilot medians, or if it opens its context.
    """

    def __init__(
        self, dtype: torch.dtype, dim: int, n_groups: int, due: int, sink_multiple: float, device: torch.device
    ) -> None:
        self._dtype, self._multiple = dtype, sink_multiple
        self._shift = torch.zeros(dim, dtype=torch.float64, device=device)
        self._opened = torch.zeros((), dtype=torch.bool, device=device)
        self._pilot, self._abs_max = torch.zeros(2, dtype=torch.float64, device=device)
        self._nonfinite = torch.zeros((), dtype=torch.int64, device=device)
        self._directions = torch.zeros_like(self._shift)
        self._groups = [Moments.empty(self._shift) for _ in range(n_groups)]
        self._ordinary = [Moments.empty(self._shift) for _ in range(n_groups)]
        self._sinks = RowSums.empty(self._shift)
        self._norms = NormStatistics(due, device)

    def add(
        self, rows: Float[Tensor, "rows dim"], first: Bool[Tensor, " rows"], group: int
    ) -> Float64[Tensor, "rows dim"]:
        """Add a block of one group's rows, of which `first` open their context; returns them shifted.

        Rows that are not finite are zero in what is returned.
        """
        largest = rows.abs().amax(1)
        finite = largest.isfinite()
        x = torch.where(finite[:, None], rows, 0).to(torch.float64)
        norms = torch.linalg.vector_norm(x, dim=1)
        some = finite & (finite.cumsum(0) <= PILOT_NORM_ROWS)
        weights = torch.stack([some.to(torch.float64), (1 / norms).masked_fill(norms == 0, 0)])
        opening, directions = weights @ x
        self._set_shift_and_pilot(opening, norms, some)
        self._nonfinite += (~finite).sum()
        self._norms.add(norms, finite)
        self._abs_max.copy_(torch.maximum(self._abs_max, largest.masked_fill(~finite, 0).max()))
        self._directions += directions
        y = x.addr_(finite.to(torch.float64), self._shift, alpha=-1)  # x - shift, or zero
        self._split(y, finite, first | (norms > self._sink_threshold()), group)
        return y

    def result(self) -> LayerMoments:
        """What has been summed up."""
        nonfinite, pilot, abs_max = torch.stack([self._nonfinite.double(), self._pilot, self._abs_max]).tolist()
        return LayerMoments(
            dtype=self._dtype,
            group_moments=self._groups,
            group_moments_no_sink=self._ordinary,
            sink_sums=self._sinks,
            norm_statistics=self._norms,
            n_nonfinite=int(nonfinite),
            pilot_norm=pilot,
            abs_max=abs_max,
            direction_sum=self._directions,
        )

    def _set_shift_and_pilot(self, opening: Tensor, norms: Tensor, some: Tensor) -> None:
        """Set shift and pilot norm, in the first block that has `some` finite rows, `opening` being their sum."""
        mean = opening / some.sum().clamp_min(1)
        self._shift.copy_(torch.where(self._opened, self._shift, mean))
        self._pilot.copy_(torch.where(self._opened, self._pilot, _typical(norms, some)))
        self._opened |= some.any()

    def _sink_threshold(self) -> Tensor:
        """Norm above which a token is a sink."""
        return torch.where(self._pilot > 0, self._multiple * self._pilot, torch.inf)

    def _split(self, y: Tensor, finite: Tensor, sink: Tensor, group: int) -> None:
        ordinary = Moments.from_masked_rows(y, finite & ~sink, self._shift)
        sinks = Moments.from_masked_rows(y, finite & sink, self._shift)
        for part in (ordinary, sinks):
            self._groups[group].add_in_place(part)
        self._ordinary[group].add_in_place(ordinary)
        self._sinks.add_in_place(sinks)


def _typical(norms: Float64[Tensor, " rows"], some: Bool[Tensor, " rows"]) -> Float64[Tensor, ""]:
    """Their median, or that of those that are not zero where it would be zero itself; 0 if all are."""
    median = _median(norms, some)
    return torch.where(median > 0, median, _median(norms, some & (norms > 0)))


def _median(values: Float64[Tensor, " rows"], some: Bool[Tensor, " rows"]) -> Float64[Tensor, ""]:
    """The lower median of some values, 0 if there are none; `torch.median` of a selection would ask the device."""
    ranked = values.masked_fill(~some, torch.inf).sort().values
    n: Int64[Tensor, ""] = some.sum()
    middle = ranked.index_select(0, ((n - 1) // 2).clamp_min(0)[None])[0]
    return torch.where(n > 0, middle, 0.0)
