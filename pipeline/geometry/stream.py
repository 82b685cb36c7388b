"""From rows that arrive layer by layer and batch by batch to moments over blocks at fixed token boundaries."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from pipeline.geometry.moments import Moments, merge, product

BLOCK_ROWS = 2048
"""Rows per matrix product: fixed, so that no number depends on the batch size."""
PILOT_ROWS = 512


@dataclass
class LayerMoments:
    """What one pass leaves of one layer. Every list has one entry per group of contexts."""

    dtype: torch.dtype
    """In which the rows arrived."""
    ordinary: list[Moments]
    sinks: list[Moments]
    """Of the tokens that open their context or whose norm exceeds `sink_multiple` pilot medians."""
    norms: list[Float[Tensor, " rows"]]
    """Norm of every finite row, block by block, float32."""
    n_nonfinite: int = 0
    """Rows left out of all sums."""
    pilot_norm: float = 0.0
    """Median norm of the first rows; of those that are not zero where at least half are (padding)."""
    abs_max: float = 0.0
    directions: Float64[Tensor, " dim"] = field(default_factory=lambda: torch.zeros(0, dtype=torch.float64))
    """Sum of x / |x|."""
    following: "LayerMoments | None" = None
    """The layer to which `cross` leads."""
    cross: Float64[Tensor, "dim next"] | None = None
    """Sum of y z^T over all tokens, y this layer's shifted row and z the following layer's."""

    @property
    def shift(self) -> Float64[Tensor, " dim"]:
        """Mean of the first rows, about which all sums are taken."""
        return self.ordinary[0].shift

    @property
    def groups(self) -> list[Moments]:
        """Of all tokens, per group."""
        return [ordinary + sinks for ordinary, sinks in zip(self.ordinary, self.sinks, strict=True)]

    @property
    def all(self) -> Moments:
        """Of all tokens."""
        return merge(self.groups)


class Stream:
    """Moments of every layer over one pass; a token is seen once, and no token is kept but in the current block.

    Blocks end after BLOCK_ROWS rows and where the group changes, never with a batch, so that batch size changes no
    byte. Each layer's shift (the mean) and pilot norm (the median) come from the first rows of its first block.
    Memory per layer: 2 * groups * dim^2 * 8 bytes, dim^2 * 8 more for each layer with a `following` one, a block of
    rows, and 4 bytes per token.

    Args:
        widths: of the layers, in order.
        rows_per_group: how many rows each group of contexts will bring.
        sink_multiple: a token is a sink if its norm exceeds this many pilot medians, or if it opens its context.
        following: for each layer the index of the layer to which its linear map is wanted, or None.
        device: where the rows are and the sums will be.
    """

    def __init__(
        self,
        widths: Sequence[int],
        rows_per_group: Sequence[int],
        sink_multiple: float,
        following: Sequence[int | None] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self._widths = tuple(widths)
        self._due = list(rows_per_group)
        self._multiple = sink_multiple
        self._following = tuple(following or [None] * len(widths))
        self._device = torch.device(device)
        self._batch: list[list[Tensor]] = [[] for _ in widths]
        self._block: list[Tensor] = []
        self._first = torch.zeros(BLOCK_ROWS, dtype=torch.bool, device=device)
        self._fill, self._group = 0, 0
        self._layers: list[LayerMoments] = []

    def put(self, layer: int, rows: Float[Tensor, "rows dim"]) -> None:
        """Hand over rows of one layer, in token order, in one or more parts; they are kept until `step`, not copied.

        Before each `step` every layer must get the same tokens.
        """
        self._batch[layer].append(rows.detach())

    def step(self, first: Bool[Tensor, " rows"], group: Int[Tensor, " rows"]) -> None:
        """End a batch: `first` marks the rows that open their context, `group` counts from 0.

        Raises:
            ValueError: a layer whose rows are not those of the batch.
        """
        rows = [torch.cat(parts) if parts else None for parts in self._batch]
        if any(part is None or part.shape != (len(group), d) for part, d in zip(rows, self._widths, strict=True)):
            raise ValueError(f"a batch of {len(group)} rows must bring every layer just as many")
        batch = [part for part in rows if part is not None]
        if not self._layers:
            self._prepare(batch)
        for start, stop, g in _runs(group):
            self._enter(g)
            self._take(batch, first.to(self._device), start, stop)
        self._batch = [[] for _ in self._widths]

    def close(self) -> list[LayerMoments]:
        """Fold what is left and return the layers in order.

        Raises:
            ValueError: rows that were announced and did not come, or came unannounced.
        """
        self._fold()
        if any(self._due) or not self._layers:
            raise ValueError(f"rows per group still due when the stream was closed: {self._due}")
        for layer in self._layers:
            if not layer.ordinary:  # no finite row at all
                self._open_sums(layer, torch.zeros_like(layer.directions))
        return self._layers

    def _prepare(self, batch: list[Tensor]) -> None:
        for rows, width in zip(batch, self._widths, strict=True):
            self._block.append(torch.empty(BLOCK_ROWS, width, dtype=rows.dtype, device=self._device))
            zero = torch.zeros(width, dtype=torch.float64, device=self._device)
            self._layers.append(LayerMoments(rows.dtype, [], [], [], directions=zero))
        for layer, target in zip(self._layers, self._following, strict=True):
            if target is not None:
                layer.following = self._layers[target]
                layer.cross = layer.directions.new_zeros(len(layer.directions), self._widths[target])

    def _enter(self, group: int) -> None:
        if group != self._group:
            self._fold()
            self._group = group

    def _take(self, batch: list[Tensor], first: Tensor, start: int, stop: int) -> None:
        self._due[self._group] -= stop - start
        while start < stop:
            size = min(stop - start, BLOCK_ROWS - self._fill)
            into, of = slice(self._fill, self._fill + size), slice(start, start + size)
            for block, rows in zip(self._block, batch, strict=True):
                block[into] = rows[of]
            self._first[into] = first[of]
            self._fill, start = into.stop, of.stop
            if self._fill == BLOCK_ROWS:
                self._fold()

    def _fold(self) -> None:
        """Add the current block, full or not, to the sums of every layer."""
        if not self._fill:
            return
        first = self._first[: self._fill]
        blocks = [block[: self._fill] for block in self._block]
        for layer, rows in zip(self._layers, blocks, strict=True):
            self._fold_layer(layer, rows, first)
        for layer, rows, target in zip(self._layers, blocks, self._following, strict=True):
            if target is not None:
                _fold_pair(layer, self._layers[target], rows, blocks[target])
        self._fill = 0

    def _fold_layer(self, layer: LayerMoments, rows: Tensor, first: Tensor) -> None:
        finite = rows.isfinite().all(1)
        if not bool(finite.all()):
            layer.n_nonfinite += int((~finite).sum())
            rows, first = rows[finite], first[finite]
        if not len(rows):
            return
        rows = rows.to(torch.float64)
        norms = torch.linalg.vector_norm(rows, dim=1)
        if not layer.ordinary:
            self._pilot(layer, rows[:PILOT_ROWS], norms[:PILOT_ROWS])
        longest = self._multiple * layer.pilot_norm if layer.pilot_norm else torch.inf
        sink = first | (norms > longest)
        layer.ordinary[self._group].add(rows[~sink])
        layer.sinks[self._group].add(rows[sink])
        layer.norms.append(norms.to(torch.float32))
        layer.abs_max = max(layer.abs_max, float(rows.abs().max()))
        layer.directions += (rows / norms.clamp_min(torch.finfo(torch.float64).tiny)[:, None]).sum(0)

    def _pilot(self, layer: LayerMoments, rows: Tensor, norms: Tensor) -> None:
        layer.pilot_norm = _typical(norms)
        self._open_sums(layer, rows.mean(0))

    def _open_sums(self, layer: LayerMoments, shift: Tensor) -> None:
        layer.ordinary = [Moments.about(shift) for _ in self._due]
        layer.sinks = [Moments.about(shift) for _ in self._due]


def _typical(norms: Float64[Tensor, " rows"]) -> float:
    """The median, of the norms that are not zero where it would be zero itself; 0 if all are."""
    median = float(norms.median())
    return median if median or not bool(norms.any()) else float(norms[norms > 0].median())


def _fold_pair(layer: LayerMoments, target: LayerMoments, rows: Tensor, images: Tensor) -> None:
    # Sums over rows that are finite in one layer only would not belong together; such a pair has no linearity.
    if layer.cross is None or layer.n_nonfinite or target.n_nonfinite:
        return
    layer.cross += product(rows.to(torch.float64) - layer.shift, images.to(torch.float64) - target.shift)


def _runs(group: Int[Tensor, " rows"]) -> list[tuple[int, int, int]]:
    """(start, stop, group) of each run of equal groups."""
    groups, counts = (part.tolist() for part in torch.unique_consecutive(group.cpu(), return_counts=True))
    stops = torch.tensor(counts).cumsum(0).tolist()
    return [(stop - count, stop, g) for g, count, stop in zip(groups, counts, stops, strict=True)]
