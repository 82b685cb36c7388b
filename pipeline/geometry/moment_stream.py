"""Streams that read the rows of all layers in one pass, block by block, for moments, pilot norms or sink tokens."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pipeline.geometry.accumulator import Accumulator, LayerMoments, SplitRows
from pipeline.geometry.device_copies import to_device
from pipeline.geometry.precision import product_dtype
from pipeline.geometry.row_norms import PilotNorm, RowNorms, SinkRule

BLOCK_ROWS = 2048
"""Number of rows per block and thus per matrix product. It is fixed, so that results do not depend on batch sizes."""


class BlockStream:
    """Base class of the streams. It collects the rows of every layer into blocks and processes one block after another.

    A block ends after BLOCK_ROWS rows or at a change of group, never at the end of a batch, so results are
    byte-identical for every batch size. Only the rows of the current block are stored. On a GPU, the stream does not
    synchronise before the pass has ended.

    Args:
        widths: width of each layer, in order.
        rows_per_group: number of rows of each group of contexts.
        device: device of the rows.
    """

    def __init__(self, widths: Sequence[int], rows_per_group: Sequence[int], device: torch.device | str) -> None:
        self._widths, self._device = tuple(widths), torch.device(device)
        self._due = list(rows_per_group)
        self._batch: list[list[Tensor]] = [[] for _ in widths]
        self._block: list[Tensor] = []
        self._first = torch.zeros(BLOCK_ROWS, dtype=torch.bool, device=device)
        self._fill, self._group = 0, 0

    def add_states(self, layer: int, rows: Float[Tensor, "rows dim"]) -> None:
        """Add the rows of one layer for the current batch, in token order, in one or more calls.

        The rows are not copied before `end_batch`. All layers must get the same tokens in each batch.
        """
        self._batch[layer].append(rows.detach())

    def end_batch(self, first: Bool[Tensor, " rows"], group: Int[Tensor, " rows"]) -> None:
        """End a batch, whose rows are then processed.

        Args:
            first: True for the rows at the first position of their context.
            group: 0-based group of contexts of each row.

        Raises:
            ValueError: a layer has a wrong number of rows or a wrong width.
        """
        rows = [_joined(parts) for parts in self._batch]
        if any(part is None or part.shape != (len(group), d) for part, d in zip(rows, self._widths, strict=True)):
            raise ValueError(f"every layer must get the {len(group)} rows of the batch, each of the layer's width")
        batch = [part for part in rows if part is not None]
        if not self._block:
            self._prepare([part.dtype for part in batch])
        first = to_device(first, self._device)
        for start, stop, g in _runs(group):
            self._enter(g)
            self._take(batch, first, start, stop)
        self._batch = [[] for _ in self._widths]

    def _prepare(self, dtypes: list[torch.dtype]) -> None:
        """Allocate the block before the first batch."""
        for width, dtype in zip(self._widths, dtypes, strict=True):
            self._block.append(torch.empty(BLOCK_ROWS, width, dtype=dtype, device=self._device))

    def _fold(self, blocks: list[Tensor], first: Bool[Tensor, " rows"], group: int) -> None:
        """Process one block of rows, all of one group; `blocks` has one tensor `[rows, dim]` per layer."""
        raise NotImplementedError

    def _end(self) -> None:
        """Process the last block, and check that all rows have come.

        Raises:
            ValueError: the number of rows of a group differs from `rows_per_group`.
        """
        self._fold_block()
        if any(self._due) or not self._block:
            raise ValueError(f"stream ended; rows missing in each group: {self._due}")

    def _enter(self, group: int) -> None:
        if group != self._group:
            self._fold_block()
            self._group = group

    def _take(self, batch: list[Tensor], first: Tensor, start: int, stop: int) -> None:
        self._due[self._group] -= stop - start
        while start < stop:
            size = min(stop - start, BLOCK_ROWS - self._fill)
            target, source = slice(self._fill, self._fill + size), slice(start, start + size)
            for block, rows in zip(self._block, batch, strict=True):
                block[target] = rows[source]
            self._first[target] = first[source]
            self._fill, start = target.stop, source.stop
            if self._fill == BLOCK_ROWS:
                self._fold_block()

    def _fold_block(self) -> None:
        """Process the current block, full or not."""
        if self._fill:
            self._fold([block[: self._fill] for block in self._block], self._first[: self._fill], self._group)
        self._fill = 0


class SinkStream(BlockStream):
    """Stream that finds the sink tokens of a cell, before passes that each cover only some of its layers.

    Args:
        deciding: per layer, True if its norms decide which tokens are sinks.
        sink_multiple: a token is a sink if its norm exceeds this many pilot norms or if it is first in its context.
    """

    def __init__(
        self,
        widths: Sequence[int],
        rows_per_group: Sequence[int],
        deciding: Sequence[bool],
        sink_multiple: float,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(widths, rows_per_group, device)
        self._rule = SinkRule(deciding, sink_multiple, self._device)
        self._sinks: list[Tensor] = []

    def finish(self) -> Bool[Tensor, " rows"]:
        """Return a mask over all rows of the pass, in order, that is True for sinks."""
        self._end()
        return torch.cat(self._sinks)

    def _fold(self, blocks: list[Tensor], first: Tensor, group: int) -> None:
        self._sinks.append(self._rule.mark([RowNorms.of(rows) for rows in blocks], first))


class PilotStream(BlockStream):
    """Stream that computes the pilot norm of every layer, as `MomentStream` does, from the rows of the first block."""

    def __init__(
        self, widths: Sequence[int], rows_per_group: Sequence[int], device: torch.device | str = "cpu"
    ) -> None:
        super().__init__(widths, rows_per_group, device)
        self._pilots = [PilotNorm(self._device) for _ in widths]
        self._rows_due = min(rows_per_group[0], BLOCK_ROWS)

    @property
    def is_due(self) -> bool:
        """True until the rows of the first block have been added."""
        return self._rows_due > 0

    def end_batch(self, first: Bool[Tensor, " rows"], group: Int[Tensor, " rows"]) -> None:
        """End a batch, and count its rows for `is_due`."""
        super().end_batch(first, group)
        self._rows_due -= len(group)

    def finish(self) -> list[float]:
        """Return the pilot norm of each layer."""
        self._fold_block()
        return [float(pilot.value) for pilot in self._pilots]

    def _fold(self, blocks: list[Tensor], first: Tensor, group: int) -> None:
        for rows, pilot in zip(blocks, self._pilots, strict=True):
            pilot.exceeded(RowNorms.of(rows), 1.0)


class MomentStream(BlockStream):
    """Stream that computes the moments of every layer in one pass.

    The shift (a mean) and the pilot norm (a median) of a layer come from the first rows of its first block. A layer
    takes 2 * groups * dim^2 * 8 bytes of memory, or twice as many if it has a `following` layer, and also one block of
    rows and 1 MiB of norms (see `memory_plan`).

    Args:
        widths: width of each layer, in order.
        rows_per_group: number of rows of each group of contexts.
        sink_multiple: a token is a sink if its norm exceeds this many pilot norms or if it is first in its context.
        following: per layer, the index of the later layer to which a linear map is fitted, or None.
        deciding: per layer, True if its norms decide which tokens are sinks; by default all layers decide.
        sinks: mask over all rows of the pass that is True for sinks, as a `SinkStream` returns it; if given, norms do
            not decide.
        device: device of the rows and the sums.
    """

    def __init__(
        self,
        widths: Sequence[int],
        rows_per_group: Sequence[int],
        sink_multiple: float,
        following: Sequence[int | None] | None = None,
        device: torch.device | str = "cpu",
        deciding: Sequence[bool] | None = None,
        sinks: Bool[Tensor, " rows"] | None = None,
    ) -> None:
        super().__init__(widths, rows_per_group, device)
        self._following = tuple(following or [None] * len(widths))
        self._rule = SinkRule(deciding or [True] * len(widths), sink_multiple, self._device)
        self._sinks, self._n_rows = sinks, 0
        self._layers: list[Accumulator] = []
        product_dtype(device)  # this may time the device, which synchronises it, so it must precede the batches

    def finish(self) -> list[LayerMoments]:
        """Process the last block and return the layers in order.

        Raises:
            ValueError: the number of rows of a group differs from `rows_per_group`.
        """
        self._end()
        counted = zip(self._layers, self._rule.pilots, self._rule.layer_counts, strict=True)
        layers = [layer.result(pilot.value, count) for layer, pilot, count in counted]
        for layer, target in zip(layers, self._following, strict=True):
            layer.next_layer = None if target is None else layers[target]
        return layers

    def _prepare(self, dtypes: list[torch.dtype]) -> None:
        super()._prepare(dtypes)
        n_groups, due = len(self._due), sum(self._due)
        for dtype, width, target in zip(dtypes, self._widths, self._following, strict=True):
            next_width = None if target is None else self._widths[target]
            self._layers.append(Accumulator(dtype, width, n_groups, due, next_width, self._device))

    def _fold(self, blocks: list[Tensor], first: Tensor, group: int) -> None:
        norms = [RowNorms.of(rows) for rows in blocks]
        sink = self._mark_sinks(norms, first)
        waiting: dict[int, list[tuple[Accumulator, SplitRows]]] = {}
        for index, (layer, rows) in enumerate(zip(self._layers, blocks, strict=True)):
            shifted = layer.add(rows, norms[index], sink, group)
            for before, before_shifted in waiting.pop(index, ()):
                before.add_cross(before_shifted, shifted, group)
            if (target := self._following[index]) is not None:
                waiting.setdefault(target, []).append((layer, shifted))

    def _mark_sinks(self, norms: list[RowNorms], first: Bool[Tensor, " rows"]) -> Bool[Tensor, " rows"]:
        sink = self._rule.mark(norms, first)
        if self._sinks is not None:
            sink = self._sinks[self._n_rows : self._n_rows + len(first)]
        self._n_rows += len(first)
        return sink


def _joined(parts: list[Tensor]) -> Tensor | None:
    """Return the parts as one tensor, and a single part without a copy; None if there are no parts."""
    return torch.cat(parts) if len(parts) > 1 else parts[0] if parts else None


def _runs(group: Int[Tensor, " rows"]) -> list[tuple[int, int, int]]:
    """Return (first row, row after the last, group) of each run of consecutive rows of one group."""
    groups, counts = (part.tolist() for part in torch.unique_consecutive(group.cpu(), return_counts=True))
    stops = torch.tensor(counts).cumsum(0).tolist()
    return [(stop - count, stop, g) for g, count, stop in zip(groups, counts, stops, strict=True)]
