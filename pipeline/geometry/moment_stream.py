"""Streaming moments of all layers of one pass, in blocks at fixed token boundaries."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pipeline.geometry.accumulator import Accumulator, LayerMoments
from pipeline.geometry.device_copies import to_device
from pipeline.geometry.moments import transposed_matmul
from pipeline.geometry.precision import product_dtype

BLOCK_ROWS = 2048
"""Rows per matrix product; fixed, so that results do not depend on the batch size."""


class MomentStream:
    """Moments of every layer over one pass; only the rows of the current block are stored.

    A block ends after BLOCK_ROWS rows or at a change of group, never at the end of a batch, so results are
    byte-identical for every batch size. Each layer's shift (mean) and pilot norm (median) come from the first rows
    of its first block. Memory per layer: 2 * groups * dim^2 * 8 bytes, dim^2 * 8 more if the layer has a `following`
    layer, one block of rows and 1 MiB of norms (see `memory_plan`). On a GPU nothing synchronises before `finish`.

    Args:
        widths: width of each layer, in order.
        rows_per_group: number of rows of each group of contexts.
        sink_multiple: a token is a sink if its norm exceeds this many pilot norms or if it opens its context.
        following: per layer the index of the later layer to which a linear map is fitted, or None.
        device: device of the rows and the sums.
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
        self._layers: list[Accumulator] = []
        self._cross: list[Tensor | None] = []
        product_dtype(device)  # may time the device, which would synchronise between batches

    def add_states(self, layer: int, rows: Float[Tensor, "rows dim"]) -> None:
        """Add rows of one layer in token order, in one or more parts; rows are referenced, not copied.

        Before each `end_batch` every layer must get the same tokens.
        """
        self._batch[layer].append(rows.detach())

    def end_batch(self, first: Bool[Tensor, " rows"], group: Int[Tensor, " rows"]) -> None:
        """End a batch: `first` marks the rows that open their context, `group` is the 0-based group of each row.

        Raises:
            ValueError: a layer has another number of rows or another width.
        """
        rows = [_joined(parts) for parts in self._batch]
        if any(part is None or part.shape != (len(group), d) for part, d in zip(rows, self._widths, strict=True)):
            raise ValueError(f"every layer must get the {len(group)} rows of the batch, each of the layer's width")
        batch = [part for part in rows if part is not None]
        if not self._layers:
            self._prepare(batch)
        first = to_device(first, self._device)
        for start, stop, g in _runs(group):
            self._enter(g)
            self._take(batch, first, start, stop)
        self._batch = [[] for _ in self._widths]

    def finish(self) -> list[LayerMoments]:
        """Fold the last block and return the layers in order.

        Raises:
            ValueError: a group got fewer or more rows than `rows_per_group` announced.
        """
        self._fold()
        if any(self._due) or not self._layers:
            raise ValueError(f"stream finished with rows per group still due: {self._due}")
        layers = [layer.result() for layer in self._layers]
        for layer, target, cross in zip(layers, self._following, self._cross, strict=True):
            layer.next_layer, layer.cross_scatter = None if target is None else layers[target], cross
        return layers

    def _prepare(self, batch: list[Tensor]) -> None:
        n_groups, due = len(self._due), sum(self._due)
        for rows, width, target in zip(batch, self._widths, self._following, strict=True):
            self._block.append(torch.empty(BLOCK_ROWS, width, dtype=rows.dtype, device=self._device))
            self._layers.append(Accumulator(rows.dtype, width, n_groups, due, self._multiple, self._device))
            to = None if target is None else self._widths[target]
            zeros = None if to is None else torch.zeros(width, to, dtype=torch.float64, device=self._device)
            self._cross.append(zeros)

    def _enter(self, group: int) -> None:
        if group != self._group:
            self._fold()
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
                self._fold()

    def _fold(self) -> None:
        """Add the current block, full or not, to the sums of every layer."""
        if not self._fill:
            return
        waiting: dict[int, list[tuple[Tensor, Tensor]]] = {}
        first = self._first[: self._fill]
        for index, (layer, block) in enumerate(zip(self._layers, self._block, strict=True)):
            shifted = layer.add(block[: self._fill], first, self._group)
            for cross, before in waiting.pop(index, ()):
                cross += transposed_matmul(before, shifted)
            target, cross = self._following[index], self._cross[index]
            if target is not None and cross is not None:
                waiting.setdefault(target, []).append((cross, shifted))
        self._fill = 0


def _joined(parts: list[Tensor]) -> Tensor | None:
    """Concatenate the parts without copying a single part; None without parts."""
    return torch.cat(parts) if len(parts) > 1 else parts[0] if parts else None


def _runs(group: Int[Tensor, " rows"]) -> list[tuple[int, int, int]]:
    """Return (start, stop, group) of each run of equal groups."""
    groups, counts = (part.tolist() for part in torch.unique_consecutive(group.cpu(), return_counts=True))
    stops = torch.tensor(counts).cumsum(0).tolist()
    return [(stop - count, stop, g) for g, count, stop in zip(groups, counts, stops, strict=True)]
