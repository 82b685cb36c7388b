"""Similarity records of one cell, made from the hidden states of the compared tokens in each layer."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from pipeline.corpora import Batch, Contexts
from pipeline.corpora.compared_tokens import compared_digest, compared_groups, compared_token_ids
from pipeline.geometry import PilotStream, PointCloud, record_layer
from pipeline.geometry.row_norms import RowNorms
from pipeline.model import StateSpec
from pipeline.similarity.record import LayerRecord
from pipeline.similarity.settings import Similarity
from pipeline.spec import Cell

RecordRow = dict[str, Any]


class SimilarityRecorder:
    """Recorder that makes the record of a layer as soon as its states are added, and finds the compared sink tokens.

    A compared token is a sink if its norm exceeds `sink_multiple` pilot norms in any block, as for the cell's moments.
    """

    def __init__(self, settings: Similarity, text: Contexts, cell: Cell, states: Sequence[StateSpec]) -> None:
        self._settings, self._text, self._cell, self._states = settings, text, cell, states
        self._records: dict[int, LayerRecord | None] = {}
        self._sinks = np.zeros(text.n_compared, bool)

    def add(self, layer: int, cloud: PointCloud, pilot_norm: float) -> None:
        """Make the record of one layer.

        Args:
            cloud: states of the layer at the compared tokens.
            pilot_norm: pilot norm of the layer, as its moments or a `PilotStream` recorded it.
        """
        state = next(state for state in self._states if state.layer == layer)
        with torch.inference_mode():
            self._records[layer] = record_layer(cloud.points, self._settings, self._cell.recipe.seed)
            if state.name == "block" and pilot_norm > 0:
                long = RowNorms.of(cloud.points).norms > self._cell.recipe.sink_multiple * pilot_norm
                self._sinks |= long.cpu().numpy()

    def rows(self) -> list[RecordRow]:
        """Return the rows of the record file, one per layer, in order; all layers must have been added.

        A layer without a record (see `record_layer`) has the status `no_geometry`.
        """
        cell, text = self._cell, self._text
        checkpoint = cell.checkpoint
        about = {
            "cell_id": cell.id,
            **{name: getattr(checkpoint, name) for name in ("model", "revision", "step", "tokenizer_digest")},
            **{"corpus": cell.corpus.id, "corpus_sha256": cell.corpus.sha256, "kind": cell.kind},
            **{"recipe": cell.recipe.label, "recipe_fingerprint": cell.recipe.fingerprint},
            **{"contexts_digest": text.digest, "tokens_digest": compared_digest(text)},
            "token_ids": compared_token_ids(text),
            "token_groups": compared_groups(text),
            "sinks": self._sinks,
        }
        return [about | self._layer(state) for state in self._states]

    def _layer(self, state: StateSpec) -> RecordRow:
        record = self._records[state.layer]
        place = {"layer": state.layer, "depth": state.depth, "state": state.name}
        if record is None:
            return place | {"status": "no_geometry"}
        arrays = {name: getattr(record, name) for name in LayerRecord.__dataclass_fields__}
        return place | {"status": "ok"} | arrays


def needed_batches(text: Contexts, batch_tokens: int, stream: PilotStream) -> Iterator[Batch]:
    """Yield the batches that similarity records need.

    These are the first batches, until `stream` has all rows for its pilot norms, and all batches with compared tokens.
    """
    for batch in text.iter_batches(batch_tokens):
        if stream.is_due or len(batch.compared_rows):
            yield batch
