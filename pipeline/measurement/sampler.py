"""Sampler between model and geometry: it copies only the sampled rows of the hidden states.

It has a module of its own, because GPU tests replace the sampler to show that a pass never synchronises.
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.corpora import Batch
from pipeline.geometry import MomentStream, PilotStream, PointCloud, SinkStream, to_device


class HiddenStateSampler:
    """Sampler that passes the moment rows of each layer to the stream, and its kept rows to its point cloud.

    Args:
        stream: stream that gets the moment rows.
        layers: layers that the stream covers, in its order; hidden states of all other layers are ignored.
        clouds: point cloud of each layer, for its kept rows. A layer may have none.
        compared: point cloud of each layer, for the tokens of similarity records; empty if no records are wanted.
    """

    def __init__(
        self,
        stream: MomentStream | SinkStream | PilotStream,
        layers: Sequence[int],
        clouds: Mapping[int, PointCloud],
        device: str,
        compared: Mapping[int, PointCloud] | None = None,
    ) -> None:
        self._stream, self._clouds, self._device = stream, clouds, device
        self._compared_clouds = compared or {}
        self._slots = {layer: slot for slot, layer in enumerate(layers)}

    def begin_batch(self, batch: Batch) -> None:
        """Start a batch, to which the states of the following calls belong."""
        self._batch = batch
        self._moments = to_device(torch.from_numpy(batch.moment_rows), self._device)
        self._kept = to_device(torch.from_numpy(batch.kept_rows), self._device)
        self._compared = to_device(torch.from_numpy(batch.compared_rows), self._device)

    def add_states(self, layer: int, hidden: Float[Tensor, "contexts tokens dim"]) -> None:
        """Add the hidden states of `layer` for all contexts of the batch."""
        if layer not in self._slots:
            return
        batch, rows = self._batch, hidden.flatten(0, 1)
        self._stream.add_states(self._slots[layer], rows[self._moments])
        if layer in self._clouds:
            self._clouds[layer].append(rows[self._kept], batch.kept_context, batch.kept_token, batch.kept_group)
        if layer in self._compared_clouds:
            self._compared_clouds[layer].append(rows[self._compared])

    def end_batch(self) -> None:
        """End a batch; the states of every layer must have been added."""
        batch = self._batch
        self._stream.end_batch(torch.from_numpy(batch.moment_first), torch.from_numpy(batch.moment_group))
