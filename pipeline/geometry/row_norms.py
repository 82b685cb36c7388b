"""Norms of the rows of a block, and the rule by which a token is a sink in all layers of a cell or in none."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

PILOT_ROWS = 512
"""Number of first rows of a layer from which its shift, pilot norm and median coordinate are computed."""


@dataclass(frozen=True)
class RowNorms:
    """Norms of a block of rows of one layer."""

    norms: Float64[Tensor, " rows"]
    """|x|; zero for rows that are not finite."""
    largest: Float[Tensor, " rows"]
    """Largest absolute coordinate."""
    finite: Bool[Tensor, " rows"]

    @classmethod
    def of(cls, rows: Float[Tensor, "rows dim"]) -> "RowNorms":
        largest = rows.abs().amax(1)
        finite = largest.isfinite()
        norms = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64).masked_fill(~finite, 0)
        return cls(norms, largest, finite)

    @property
    def inverse(self) -> Float64[Tensor, " rows"]:
        """1 / |x|; zero for rows of norm zero."""
        return (1 / self.norms).masked_fill(self.norms == 0, 0)

    @property
    def pilot(self) -> Bool[Tensor, " rows"]:
        """Mask of the first PILOT_ROWS finite rows."""
        return self.finite & (self.finite.cumsum(0) <= PILOT_ROWS)


class PilotNorm:
    """Median norm of a layer's first PILOT_ROWS finite rows; if at least half are zero, median of the positive ones."""

    def __init__(self, device: torch.device) -> None:
        self._value = torch.zeros((), dtype=torch.float64, device=device)
        self._is_set = torch.zeros((), dtype=torch.bool, device=device)

    def exceeded(self, block: RowNorms, multiple: float) -> Bool[Tensor, " rows"]:
        """Return a mask of the rows longer than `multiple` pilot norms.

        The first block with finite rows sets the pilot norm. If the pilot norm is zero, no row exceeds it.
        """
        self._value.copy_(torch.where(self._is_set, self._value, _pilot_norm(block.norms, block.pilot)))
        self._is_set |= block.finite.any()
        return block.norms > torch.where(self._value > 0, multiple * self._value, torch.inf)

    @property
    def value(self) -> Float64[Tensor, ""]:
        return self._value


class SinkRule:
    """Rule for sinks: the first token of a context, and tokens longer than `multiple` pilot norms in a deciding layer.

    Args:
        deciding: per layer, True if a token becomes a sink when its norm there exceeds `multiple` pilot norms. In other
            layers, these tokens are only counted.
    """

    def __init__(self, deciding: Sequence[bool], multiple: float, device: torch.device) -> None:
        self._deciding, self._multiple = tuple(deciding), multiple
        self.pilots = [PilotNorm(device) for _ in deciding]
        self.layer_counts = [torch.zeros((), dtype=torch.int64, device=device) for _ in deciding]
        """Per layer, the number of finite tokens that are the first of their context or longer than `multiple` pilot
        norms there."""

    def mark(self, blocks: Sequence[RowNorms], first: Bool[Tensor, " rows"]) -> Bool[Tensor, " rows"]:
        """Return a mask of the sinks among the rows of one block.

        Args:
            blocks: norms of the rows, one item per layer.
            first: True for the rows at the first position of their context.
        """
        sink = first.clone()
        for block, pilot, count, decides in zip(blocks, self.pilots, self.layer_counts, self._deciding, strict=True):
            exceeded = pilot.exceeded(block, self._multiple)
            count += (block.finite & (first | exceeded)).sum()
            if decides:
                sink |= exceeded
        return sink


def _pilot_norm(norms: Float64[Tensor, " rows"], mask: Bool[Tensor, " rows"]) -> Float64[Tensor, ""]:
    """Return the median of the norms that `mask` selects; if it is 0, the median of the positive ones, or 0."""
    median = masked_median(norms, mask)
    return torch.where(median > 0, median, masked_median(norms, mask & (norms > 0)))


def masked_median(values: Float[Tensor, " rows"], mask: Bool[Tensor, " rows"]) -> Float[Tensor, ""]:
    """Return the lower median of the values that `mask` selects, or 0 without any; the device is not synchronised."""
    ranked = values.masked_fill(~mask, torch.inf).sort().values
    n: Int64[Tensor, ""] = mask.sum()
    middle = ranked.index_select(0, ((n - 1) // 2).clamp_min(0)[None])[0]
    return torch.where(n > 0, middle, 0.0)
