"""Similarity records of a cell, read from the lake as objects."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.lake.lake import Lake
from pipeline.lake.left_out import leave_out
from pipeline.lake.similarity_files import decode_rows, layer_record
from pipeline.similarity.record import LayerRecord


@dataclass(frozen=True, eq=False)
class CellRecords:
    """Similarity records of the layers of one cell. All layers are compared on the same tokens."""

    about: Mapping[str, Any]
    """Columns of the cell by name: model, revision, step, corpus, recipe, digests."""
    token_ids: np.ndarray
    """Token id of each compared token."""
    groups: np.ndarray
    """Number of the group of contexts to which each compared token belongs."""
    sinks: np.ndarray
    """True for each compared token that is a sink in this checkpoint."""
    layers: Mapping[int, LayerRecord]
    """Maps a layer to its record; a layer without geometry is left out."""
    depths: Mapping[int, float]
    states: Mapping[int, str]
    """Maps a layer to its state: embedding, block or final_norm."""

    @property
    def tokens_digest(self) -> str:
        return self.about["tokens_digest"]

    @property
    def blocks(self) -> list[int]:
        """Layers that are outputs of blocks and have a record."""
        return sorted(layer for layer, state in self.states.items() if state == "block" and layer in self.layers)


def parse_cell_records(data: bytes, ranks: bool = True) -> CellRecords:
    """Parse a file of similarity records; raise ValueError if the file is damaged.

    Args:
        ranks: also read the neighbour ranks.
    """
    rows = decode_rows(data, ranks)
    first = rows[0]
    about = {name: value for name, value in first.items() if isinstance(value, str | int | None)}
    records = {row["layer"]: layer_record(row) for row in rows}
    return CellRecords(
        about,
        first["token_ids"],
        first["token_groups"].astype(np.int64),
        first["sinks"].astype(bool),
        {layer: record for layer, record in records.items() if record is not None},
        {row["layer"]: row["depth"] for row in rows},
        {row["layer"]: row["state"] for row in rows},
    )


def load_cell_records(lake: Lake, keys: Iterable[str], ranks: bool = False) -> dict[str, CellRecords]:
    """Load the files with these keys; return the records by key. Damaged files are left out with a warning.

    Args:
        ranks: also read the neighbour ranks.
    """
    found: dict[str, CellRecords] = {}
    for key in keys:
        data = lake.store.get_or_reason(key)
        try:
            if isinstance(data, str):
                raise ValueError(data)
            found[key] = parse_cell_records(data, ranks)
        except ValueError as error:
            leave_out(lake.uri, {key: str(error)})
    return found
