"""Statistics of one layer, accumulated block by block without synchronising the device."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Float32, Float64
from torch import Tensor

from pipeline.geometry.moments import Moments, RowSums, merge_moments, select_or_zero, transposed_matmul
from pipeline.geometry.row_norms import PILOT_ROWS, RowNorms, masked_median

NORM_SAMPLE = 2**18
"""Number of norms stored per layer (float32, 1 MiB). A layer with more rows stores a sample (see `NormStatistics`)."""


@dataclass
class DirectionSums:
    """Sums of the norms |x| and of the directions x / |x| of finite rows, in float64."""

    n_nonzero: Tensor
    """Number of rows with a positive norm, an int64 scalar on the device."""
    norm_sum: Float64[Tensor, ""]
    """Sum of |x|."""
    direction_sum: Float64[Tensor, " dim"]
    """Sum of x / |x| over the rows with a positive norm."""

    @classmethod
    def empty(cls, like: Float64[Tensor, " dim"]) -> "DirectionSums":
        return cls(like.new_zeros((), dtype=torch.int64), like.new_zeros(()), torch.zeros_like(like))

    def __add__(self, other: "DirectionSums") -> "DirectionSums":
        return self._combine(other, 1)

    def __sub__(self, other: "DirectionSums") -> "DirectionSums":
        return self._combine(other, -1)

    def add_in_place(self, n_nonzero: Tensor, norm_sum: Tensor, direction_sum: Tensor) -> None:
        self.n_nonzero += n_nonzero
        self.norm_sum += norm_sum
        self.direction_sum += direction_sum

    def _combine(self, other: "DirectionSums", sign: int) -> "DirectionSums":
        return DirectionSums(
            self.n_nonzero + sign * other.n_nonzero,
            self.norm_sum + sign * other.norm_sum,
            self.direction_sum + sign * other.direction_sum,
        )


@dataclass
class TokenSums:
    """Sums over a set of tokens of one layer: all tokens, or all except sinks.

    Each list has one item per group of contexts.
    """

    moments: list[Moments]
    directions: list[DirectionSums]
    cross_scatters: list[Float64[Tensor, "dim next"]]
    """Sum of y z^T, where y and z are the shifted rows of a token in this and the next layer. Non-finite rows count as
    zero. The list is empty if there is no next layer."""

    @classmethod
    def empty(cls, shift: Float64[Tensor, " dim"], n_groups: int, next_width: int | None) -> "TokenSums":
        groups = range(n_groups)
        crosses = [shift.new_zeros(len(shift), next_width) for _ in groups] if next_width is not None else []
        return cls([Moments.empty(shift) for _ in groups], [DirectionSums.empty(shift) for _ in groups], crosses)

    @property
    def pooled(self) -> Moments:
        """Moments of the tokens of all groups."""
        return merge_moments(self.moments)

    @property
    def pooled_cross_scatter(self) -> Float64[Tensor, "dim next"]:
        """Cross scatter of the tokens of all groups; there must be a next layer."""
        return sum(self.cross_scatters[1:], start=self.cross_scatters[0])


@dataclass
class LayerMoments:
    """Statistics of one layer over the finite rows of one pass, in float64."""

    dtype: torch.dtype
    """Dtype of the rows as the model produced them."""
    every: TokenSums
    """Sums over all tokens."""
    ordinary: TokenSums
    """Sums over the tokens that are not sinks of the cell."""
    sink_sums: RowSums
    """Sums over the sink tokens of all groups."""
    norm_statistics: "NormStatistics"
    n_nonfinite: int
    """Number of rows with NaN or infinity. All sums leave these rows out."""
    n_layer_sinks: int
    """Number of finite tokens that are sinks by this layer alone: they are the first of their context, or their norm
    exceeds `sink_multiple` pilot norms."""
    pilot_norm: float
    """Median norm of the first PILOT_ROWS finite rows. If at least half of these norms are zero (padding), it is the
    median of the positive ones."""
    abs_max: float
    """Largest absolute coordinate of a finite row."""
    abs_median: float
    """Median absolute coordinate of the finite rows among the first PILOT_ROWS rows; NaN if none of them is finite."""
    next_layer: "LayerMoments | None" = None
    """Statistics of the layer to which a linear map is fitted (see `cross_scatters`); None if no map is fitted."""


class NormStatistics:
    """Maximum of the row norms, and a sample of norms for the median.

    Up to NORM_SAMPLE rows, the sample contains every norm. With more rows, the norms of each block of 2048 rows are
    sorted, and of every s consecutive norms only the middle one is stored. s is the smallest power of two with which
    the sample has no more than NORM_SAMPLE norms.

    The rank of the median is then wrong by at most s / 2 per block, if the errors of all blocks have the same sign. If
    signs are random, the error of the median is about s / 78 of its own standard error: 5 % of it with one million
    rows, and less than 100 % of it with up to 16 million.

    Args:
        due: expected number of rows, from which s is computed.
    """

    def __init__(self, due: int, device: torch.device) -> None:
        self._every = 2 ** math.ceil(math.log2(max(due / NORM_SAMPLE, 1)))
        self._sampled: list[Tensor] = []
        self._largest = torch.zeros((), dtype=torch.float64, device=device)

    def add(self, norms: Float64[Tensor, " rows"], finite: Bool[Tensor, " rows"]) -> None:
        """Add the norms of one block. Rows that are not finite must have norm zero; the sample leaves them out."""
        self._largest.copy_(torch.maximum(self._largest, norms.max()))
        ranked = norms.masked_fill(~finite, torch.inf).to(torch.float32).sort().values
        middle = (self._every - 1 + len(self._sampled) % 2) // 2  # an even s has two middles; blocks take turns
        self._sampled.append(ranked[middle :: self._every].clone())

    @property
    def sample(self) -> Float32[Tensor, " sample"]:
        """Sampled norms, in the order of the blocks and ascending within each block."""
        norms = torch.cat(self._sampled)
        return norms[norms.isfinite()]

    @property
    def largest(self) -> float:
        return float(self._largest)


class SplitRows(NamedTuple):
    """Rows of a block minus the shift, split into ordinary tokens and sinks. Non-finite rows are zero.

    On a GPU, each of the two tensors has all rows of the block, with zeros in the rows that belong to the other one.
    """

    ordinary: Float64[Tensor, "_ordinary dim"]
    sinks: Float64[Tensor, "_sinks dim"]


class Accumulator:
    """Running float64 sums of one layer over rows minus a shift, which stays fixed once it is set.

    The shift is the mean of the first PILOT_ROWS finite rows of the first block that has finite rows.

    Args:
        dtype: dtype of the rows.
        dim: width of the layer.
        n_groups: number of groups of contexts.
        due: expected number of rows.
        next_width: width of the layer to which a linear map is fitted; None if no map is fitted.
    """

    def __init__(
        self, dtype: torch.dtype, dim: int, n_groups: int, due: int, next_width: int | None, device: torch.device
    ) -> None:
        self._dtype = dtype
        self._shift = torch.zeros(dim, dtype=torch.float64, device=device)
        self._opened = torch.zeros((), dtype=torch.bool, device=device)
        self._is_first_block = True
        self._abs_max, self._abs_median = torch.zeros(2, dtype=torch.float64, device=device)
        self._nonfinite = torch.zeros((), dtype=torch.int64, device=device)
        self._every = TokenSums.empty(self._shift, n_groups, next_width)
        self._ordinary = TokenSums.empty(self._shift, n_groups, next_width)
        self._sinks = RowSums.empty(self._shift)
        self._norms = NormStatistics(due, device)

    def add(
        self, rows: Float[Tensor, "rows dim"], norms: RowNorms, sink: Bool[Tensor, " rows"], group: int
    ) -> SplitRows:
        """Add a block of rows of one group, of which `sink` marks the sink tokens, and return the shifted rows."""
        x = torch.where(norms.finite[:, None], rows, 0).to(torch.float64)
        kept, out = norms.finite & ~sink, norms.finite & sink
        weights = torch.stack([norms.pilot.to(torch.float64), norms.inverse * kept, norms.inverse * out])
        pilot_sum, ordinary, sinks = weights @ x
        self._open(pilot_sum, rows, norms)
        self._nonfinite += (~norms.finite).sum()
        self._norms.add(norms.norms, norms.finite)
        self._abs_max.copy_(torch.maximum(self._abs_max, norms.largest.masked_fill(~norms.finite, 0).max()))
        for mask, direction, parts in (kept, ordinary, (self._every, self._ordinary)), (out, sinks, (self._every,)):
            for part in parts:
                lengths = norms.norms * mask
                part.directions[group].add_in_place((lengths > 0).sum(), lengths.sum(), direction)
        y = x.addr_(norms.finite.to(torch.float64), self._shift, alpha=-1)  # x - shift; zero in non-finite rows
        split = SplitRows(select_or_zero(y, ~sink), select_or_zero(y, sink))
        self._add_moments(split, kept.sum(), out.sum(), group)
        return split

    def add_cross(self, before: SplitRows, after: SplitRows, group: int) -> None:
        """Add the cross scatter of the shifted rows of this layer and of the next layer."""
        ordinary = transposed_matmul(before.ordinary, after.ordinary)
        self._ordinary.cross_scatters[group].add_(ordinary)
        self._every.cross_scatters[group].add_(ordinary).add_(transposed_matmul(before.sinks, after.sinks))

    def result(self, pilot_norm: Float64[Tensor, ""], n_layer_sinks: Tensor) -> LayerMoments:
        """Return the statistics of all rows added so far."""
        scalars = [self._nonfinite.double(), pilot_norm, n_layer_sinks.double(), self._abs_max, self._abs_median]
        nonfinite, pilot, layer_sinks, abs_max, abs_median = torch.stack(scalars).tolist()
        return LayerMoments(
            dtype=self._dtype,
            every=self._every,
            ordinary=self._ordinary,
            sink_sums=self._sinks,
            norm_statistics=self._norms,
            n_nonfinite=int(nonfinite),
            n_layer_sinks=int(layer_sinks),
            pilot_norm=pilot,
            abs_max=abs_max,
            abs_median=abs_median,
        )

    def _open(self, pilot_sum: Tensor, rows: Tensor, norms: RowNorms) -> None:
        """Set the shift from the first block that has finite rows, and the median coordinate from the first block."""
        mean = pilot_sum / norms.pilot.sum().clamp_min(1)
        self._shift.copy_(torch.where(self._opened, self._shift, mean))
        if self._is_first_block:
            pilot, finite = rows[:PILOT_ROWS].abs(), norms.finite[:PILOT_ROWS]
            median = masked_median(pilot.flatten(), finite.repeat_interleave(rows.shape[1]))
            self._abs_median.copy_(torch.where(finite.any(), median.double(), torch.nan))
        self._opened |= norms.finite.any()
        self._is_first_block = False

    def _add_moments(self, rows: SplitRows, n_ordinary: Tensor, n_sinks: Tensor, group: int) -> None:
        ordinary = Moments.from_shifted_rows(rows.ordinary, n_ordinary, self._shift)
        sinks = Moments.from_shifted_rows(rows.sinks, n_sinks, self._shift)
        for part in (ordinary, sinks):
            self._every.moments[group].add_in_place(part)
        self._ordinary.moments[group].add_in_place(ordinary)
        self._sinks.add_in_place(sinks)
