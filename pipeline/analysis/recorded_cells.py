"""Similarity records of the rows of a frame, for the findings."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from pipeline.analysis.frames import HISTORY_COLUMNS, LakeOrFrame, load_layer_rows, select_newest_rows
from pipeline.analysis.similarities import HEADLINES, OVERLAPS, shared_tokens
from pipeline.lake.cell_records import CellRecords, load_cell_records
from pipeline.lake.lake import Lake
from pipeline.lake.similarity_files import parse_size
from pipeline.similarity.record import ComparedTokens

MAX_CHECKPOINTS = 200
"""Most checkpoints of one history in memory (0.3 GB of records at 25 layers); longer histories are thinned evenly."""


def select_recorded(frame: pl.DataFrame) -> pl.DataFrame:
    """Select the rows of cells with similarity records; empty if the frame has no column `records`."""
    return frame.filter(pl.col("records").is_not_null()) if "records" in frame.columns else frame.clear()


def load_records(rows: pl.DataFrame, ranks: bool = False) -> dict[str, CellRecords]:
    """Load the records of these rows by cell id, of one size if all cells have it; damaged files are left out.

    Args:
        ranks: also read the neighbour ranks, where there are any; they take most of the memory.
    """
    found: dict[str, CellRecords] = {}
    for (uri,), part in rows.unique("cell_id").sort("cell_id").group_by("lake"):
        chosen = choose_record_files(dict(part.select("cell_id", "records").iter_rows()), ranks)
        cells = {key: cell_id for cell_id, key in chosen.items()}
        found |= {cells[key]: cell for key, cell in load_cell_records(Lake(str(uri)), cells, ranks).items()}
    return found


def choose_record_files(files: Mapping[str, Sequence[str]], ranks: bool = False) -> dict[str, str]:
    """Choose one file per cell, with the number of tokens that most cells have (the larger of equally frequent ones).

    Among several such files, the one with the most kernel factors is chosen, then the one with the longest lists.

    Args:
        files: keys of the record files by cell id.
        ranks: of files of equal size, prefer the one with neighbour ranks; if false, the one without.
    """
    sizes = {key: parse_size(key) for keys in files.values() for key in keys}
    counts = Counter(tokens for keys in files.values() for tokens in {sizes[key].tokens for key in keys})
    shared = max(counts, key=lambda tokens: (counts[tokens], tokens), default=0)

    def preference(key: str) -> tuple[bool, Any, bool]:
        size = sizes[key]
        return size.tokens == shared, size[:3], size.ranks == ranks

    return {cell_id: max(keys, key=preference) for cell_id, keys in files.items()}


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


def iter_newest_cells(lake: LakeOrFrame, measures: Sequence[str]) -> Iterator[tuple[dict[str, Any], CellRecords, str]]:
    """Yield the newest checkpoint of each history that has records, once per measure that its records allow.

    The first item is the start of its row in a finding: keys of the history, revision, measure, and the numbers of
    blocks, ordinary tokens and rows.
    """
    for rows, cells in iter_recorded_histories(select_newest_rows(load_layer_rows(lake))):
        cell, blocks = cells[-1], len(cells[-1].blocks)
        about: dict[str, Any] = {name: rows[name][-1] for name in (*HISTORY_COLUMNS, "revision")}
        about |= {"blocks": blocks, "tokens": shared_tokens([cell]).count, "rows": blocks}
        for measure in recorded_measures([cell], measures):
            yield about | {"measure": measure}, cell, measure


def recorded_measures(cells: Sequence[CellRecords], measures: Sequence[str] = HEADLINES) -> list[str]:
    """Return those of `measures` for which every record has enough neighbours; all if no layer has a record."""
    lengths = (record.neighbours.shape[1] for cell in cells for record in cell.layers.values())
    fewest = min(lengths, default=max(OVERLAPS.values()))
    return [name for name in measures if OVERLAPS.get(name, 0) <= fewest]


def has_groups(tokens: ComparedTokens) -> bool:
    """True if there are several groups of contexts; one group gives no errors."""
    return len(tokens.groups) > 1
