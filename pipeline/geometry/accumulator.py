"""Block-wise streaming statistics of one layer, accumulated without device synchronisation."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float32, Float64, Int64
from torch import Tensor

from pipeline.geometry.moments import Moments, RowSums, merge_moments

PILOT_NORM_ROWS = 512
NORM_SAMPLE = 2**18
"""Number of float32 norms stored per layer (1 MiB); of more rows, every s-th rank of each block is stored."""


@dataclass
class LayerMoments:
    """Statistics of one layer over the finite rows of one pass, in float64."""

    dtype: torch.dtype
    """Dtype of the rows as the model produced them."""
    group_moments: list[Moments]
    """Moments of all tokens, one per group of contexts."""
    group_moments_no_sink: list[Moments]
    """Moments of the tokens that are not sinks, one per group of contexts."""
    sink_sums: RowSums
    """Sums over the sink tokens of all groups: first of a context, or norm above `sink_multiple` pilot norms."""
    norm_statistics: "NormStatistics"
    n_nonfinite: int
    """Number of rows with NaN or infinity, which no sum includes."""
    pilot_norm: float
    """Median norm of the first rows; of the non-zero ones if at least half are zero (padding)."""
    abs_max: float
    direction_sum: Float64[Tensor, " dim"]
    """Sum of x / |x|."""
    next_layer: "LayerMoments | None" = None
    """Layer on the other side of `cross_scatter`."""
    cross_scatter: Float64[Tensor, "dim next"] | None = None
    """Sum of y z^T with y the shifted row of this layer and z of the next layer; non-finite rows count as zero."""

    @property
    def pooled_moments(self) -> Moments:
        """Moments of the tokens of all groups."""
        return merge_moments(self.group_moments)


class NormStatistics:
    """Sum, maximum and number of non-zero row norms, and a sample of norms for the median.

    The sample contains every norm of up to NORM_SAMPLE rows. For more rows it contains, of each block of 2048 sorted
    norms, the middle one of every s ranks, s being the smallest sufficient power of two. The rank of the median is
    then off by at most s / 2 per block if all errors have one sign; with errors of either sign the total is about
    s / 78 of the median's own standard error (5 % at one million rows, below 1 up to 16 million). `due` is the number
    of rows to expect.
    """

    def __init__(self, due: int, device: torch.device) -> None:
        self._every = 2 ** math.ceil(math.log2(max(due / NORM_SAMPLE, 1)))
        self._sampled: list[Tensor] = []
        self._sum, self._largest = torch.zeros(2, dtype=torch.float64, device=device)
        self._positive = torch.zeros((), dtype=torch.int64, device=device)

    def add(self, norms: Float64[Tensor, " rows"], finite: Bool[Tensor, " rows"]) -> None:
        """Add a block of norms; non-finite rows must have norm zero and are not counted."""
        self._sum += norms.sum()
        self._largest.copy_(torch.maximum(self._largest, norms.max()))
        self._positive += (norms > 0).sum()
        ranked = norms.masked_fill(~finite, torch.inf).to(torch.float32).sort().values
        middle = (self._every - 1 + len(self._sampled) % 2) // 2  # an even s has two middle ranks: alternate
        self._sampled.append(ranked[middle :: self._every].clone())

    @property
    def sample(self) -> Float32[Tensor, " sample"]:
        """Sampled norms, block by block and ascending within each block."""
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
    """Running float64 sums of one layer; shift and pilot norm come from the first PILOT_NORM_ROWS finite rows.

    Args:
        dtype: dtype of the rows.
        dim: width of the layer.
        n_groups: number of groups of contexts.
        due: number of rows to expect.
        sink_multiple: a token is a sink if its norm exceeds this many pilot norms or if it opens its context.
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
        """Add a block of rows of one group and return the shifted rows, with zeros for non-finite rows.

        `first` marks the rows that open their context.
        """
        largest = rows.abs().amax(1)
        finite = largest.isfinite()
        x = torch.where(finite[:, None], rows, 0).to(torch.float64)
        norms = torch.linalg.vector_norm(x, dim=1)
        pilot = finite & (finite.cumsum(0) <= PILOT_NORM_ROWS)
        weights = torch.stack([pilot.to(torch.float64), (1 / norms).masked_fill(norms == 0, 0)])
        pilot_sum, directions = weights @ x
        self._set_shift_and_pilot(pilot_sum, norms, pilot)
        self._nonfinite += (~finite).sum()
        self._norms.add(norms, finite)
        self._abs_max.copy_(torch.maximum(self._abs_max, largest.masked_fill(~finite, 0).max()))
        self._directions += directions
        y = x.addr_(finite.to(torch.float64), self._shift, alpha=-1)  # x - shift, or zero
        self._split(y, finite, first | (norms > self._sink_threshold()), group)
        return y

    def result(self) -> LayerMoments:
        """Return the statistics of all rows added so far."""
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

    def _set_shift_and_pilot(self, pilot_sum: Tensor, norms: Tensor, pilot: Tensor) -> None:
        """Set shift and pilot norm in the first block that has finite rows; later calls change nothing."""
        mean = pilot_sum / pilot.sum().clamp_min(1)
        self._shift.copy_(torch.where(self._opened, self._shift, mean))
        self._pilot.copy_(torch.where(self._opened, self._pilot, _pilot_norm(norms, pilot)))
        self._opened |= pilot.any()

    def _sink_threshold(self) -> Tensor:
        return torch.where(self._pilot > 0, self._multiple * self._pilot, torch.inf)

    def _split(self, y: Tensor, finite: Tensor, sink: Tensor, group: int) -> None:
        ordinary = Moments.from_masked_rows(y, finite & ~sink, self._shift)
        sinks = Moments.from_masked_rows(y, finite & sink, self._shift)
        for part in (ordinary, sinks):
            self._groups[group].add_in_place(part)
        self._ordinary[group].add_in_place(ordinary)
        self._sinks.add_in_place(sinks)


def _pilot_norm(norms: Float64[Tensor, " rows"], mask: Bool[Tensor, " rows"]) -> Float64[Tensor, ""]:
    """Return the median of the masked norms, or of the non-zero ones if that is zero; 0 if all are zero."""
    median = _median(norms, mask)
    return torch.where(median > 0, median, _median(norms, mask & (norms > 0)))


def _median(values: Float64[Tensor, " rows"], mask: Bool[Tensor, " rows"]) -> Float64[Tensor, ""]:
    """Return the lower median of the masked values, 0 if none; boolean indexing would synchronise the device."""
    ranked = values.masked_fill(~mask, torch.inf).sort().values
    n: Int64[Tensor, ""] = mask.sum()
    middle = ranked.index_select(0, ((n - 1) // 2).clamp_min(0)[None])[0]
    return torch.where(n > 0, middle, 0.0)
