"""Similarity records of the rows of a frame, for the findings."""

from collections.abc import Iterator, Sequence

import numpy as np
import polars as pl

from pipeline.analysis.frames import HISTORY_COLUMNS
from pipeline.analysis.similarities import HEADLINES, OVERLAPS
from pipeline.lake.cell_records import CellRecords, load_cell_records
from pipeline.lake.lake import Lake
from pipeline.similarity.record import ComparedTokens

MAX_CHECKPOINTS = 200
"""Most checkpoints of one history in memory (0.3 GB of records at 25 layers); longer histories are thinned evenly."""


def select_recorded(frame: pl.DataFrame) -> pl.DataFrame:
    """Select the rows of cells with similarity records; empty if the frame has no column `record`."""
    return frame.filter(pl.col("record").is_not_null()) if "record" in frame.columns else frame.clear()


def load_records(rows: pl.DataFrame) -> dict[str, CellRecords]:
    """Records of these rows by cell id; damaged files are left out with a warning."""
    found: dict[str, CellRecords] = {}
    for (uri,), part in rows.select("lake", "record", "cell_id").unique().sort("record").group_by("lake"):
        keys = dict(part.select("record", "cell_id").iter_rows())
        found |= {keys[key]: cell for key, cell in load_cell_records(Lake(str(uri)), keys).items()}
    return found


def iter_recorded_histories(frame: pl.DataFrame) -> Iterator[tuple[pl.DataFrame, list[CellRecords]]]:
    """Yield, per history, one row per checkpoint and the records of the checkpoints, in training order.

    Damaged records, and records of other tokens than the last checkpoint has, are left out.
    """
    for part in select_recorded(frame).partition_by(*HISTORY_COLUMNS, maintain_order=True):
        steps = part.unique("cell_id", maintain_order=True).sort("step", "revision", nulls_last=False)
        if steps.height > MAX_CHECKPOINTS:
            chosen = np.linspace(0, steps.height - 1, MAX_CHECKPOINTS).round().astype(int)
            steps = steps[sorted({*chosen.tolist()})]
        records = load_records(steps)
        known = [cell_id for cell_id in steps["cell_id"] if cell_id in records]
        if known:
            digest = records[known[-1]].tokens_digest
            same = [cell_id for cell_id in known if records[cell_id].tokens_digest == digest]
            kept = steps.filter(pl.col("cell_id").is_in(same))
            yield kept, [records[cell_id] for cell_id in kept["cell_id"]]


def recorded_measures(cells: Sequence[CellRecords], measures: Sequence[str] = HEADLINES) -> list[str]:
    """Measures for which all records have enough neighbours; all measures if no layer has a record."""
    lengths = (record.neighbours.shape[1] for cell in cells for record in cell.layers.values())
    fewest = min(lengths, default=max(OVERLAPS.values()))
    return [name for name in measures if OVERLAPS.get(name, 0) <= fewest]


def has_groups(tokens: ComparedTokens) -> bool:
    """True if there are several groups of contexts, which errors need."""
    return len(tokens.groups) > 1
