"""Loading of the similarity records that belong to the rows of a frame, for the findings."""

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
"""Largest number of checkpoints of one history in memory (0.3 GB of records at 25 layers). Of a longer history, this
many checkpoints at equal distances are read."""


def select_recorded(frame: pl.DataFrame) -> pl.DataFrame:
    """Select the rows of cells that have similarity records; none if the frame has no column `records`."""
    return frame.filter(pl.col("records").is_not_null()) if "records" in frame.columns else frame.clear()


def load_records(rows: pl.DataFrame, ranks: bool = False) -> dict[str, CellRecords]:
    """Load the similarity records of the cells of these rows, by cell id; damaged files are left out.

    A cell may have records of several sizes, of which `choose_record_files` chooses one.

    Args:
        ranks: if true, the neighbour ranks are read too, where there are any. They take most of the memory.
    """
    found: dict[str, CellRecords] = {}
    for (uri,), part in rows.unique("cell_id").sort("cell_id").group_by("lake"):
        chosen = choose_record_files(dict(part.select("cell_id", "records").iter_rows()), ranks)
        cells = {key: cell_id for cell_id, key in chosen.items()}
        found |= {cells[key]: cell for key, cell in load_cell_records(Lake(str(uri)), cells, ranks).items()}
    return found


def choose_record_files(files: Mapping[str, Sequence[str]], ranks: bool = False) -> dict[str, str]:
    """Choose one file of records for each cell; return the keys of these files by cell id.

    The first choice is a file with the number of tokens that most cells have (the largest of equally frequent numbers),
    and otherwise the one with most tokens. Of several files with this number, the one with most kernel factors is
    chosen, and then the one with the longest neighbour lists.

    Args:
        files: keys of the record files by cell id.
        ranks: of files that are equal in all this, choose the one with neighbour ranks; if false, the one without.
    """
    sizes = {key: parse_size(key) for keys in files.values() for key in keys}
    counts = Counter(tokens for keys in files.values() for tokens in {sizes[key].tokens for key in keys})
    shared = max(counts, key=lambda tokens: (counts[tokens], tokens), default=0)

    def preference(key: str) -> tuple[bool, Any, bool]:
        size = sizes[key]
        return size.tokens == shared, size[:3], size.ranks == ranks

    return {cell_id: max(keys, key=preference) for cell_id, keys in files.items()}


def iter_recorded_histories(frame: pl.DataFrame) -> Iterator[tuple[pl.DataFrame, list[CellRecords]]]:
    """Yield, for each history, a frame with one row per checkpoint and the list of the checkpoints' records.

    Both are in training order. A checkpoint is left out if its file of records is damaged, or if its records are of
    other tokens than those of the last checkpoint.
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
    """Yield the newest checkpoint of each history, once per measure, if it has similarity records.

    Only measures for which the records have enough neighbours are used. Each item has the first columns of a row of a
    finding (keys of the history, `revision`, `measure`, `blocks`, `tokens`, `rows`), the records, and the measure.
    """
    for rows, cells in iter_recorded_histories(select_newest_rows(load_layer_rows(lake))):
        cell, blocks = cells[-1], len(cells[-1].blocks)
        about: dict[str, Any] = {name: rows[name][-1] for name in (*HISTORY_COLUMNS, "revision")}
        about |= {"blocks": blocks, "tokens": shared_tokens([cell]).count, "rows": blocks}
        for measure in recorded_measures([cell], measures):
            yield about | {"measure": measure}, cell, measure


def recorded_measures(cells: Sequence[CellRecords], measures: Sequence[str] = HEADLINES) -> list[str]:
    """Return those of `measures` for which every record has enough neighbours; all of them if no layer has a record."""
    lengths = (record.neighbours.shape[1] for cell in cells for record in cell.layers.values())
    fewest = min(lengths, default=max(OVERLAPS.values()))
    return [name for name in measures if OVERLAPS.get(name, 0) <= fewest]


def has_groups(tokens: ComparedTokens) -> bool:
    """Return True if the kept tokens are of several groups of contexts; a single group gives no errors."""
    return len(tokens.groups) > 1
