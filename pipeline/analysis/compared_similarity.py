"""Similarity of corresponding layers in a comparison, from similarity records of equal tokens."""

from collections.abc import Sequence
from typing import Any

import polars as pl

from pipeline.analysis.recorded_cells import load_records, select_recorded
from pipeline.analysis.similarity_of_records import SCHEMA, similarity_of_records
from pipeline.errors import UsageError

KEYS: dict[str, Any] = {
    **dict.fromkeys(("corpus", "recipe", "kind"), pl.String()),
    "step": pl.Int64(),
}
NO_RECORDS = "no similarity: the lake has no similarity records of {}; add `similarity:` to the sweep"


def compare_records(
    labels: Sequence[str], parts: Sequence[pl.DataFrame], by_step: bool
) -> tuple[pl.DataFrame, list[str]]:
    """Compare the similarity records of two sides, and list what could not be compared.

    Columns: `corpus`, `recipe`, `kind` and `step` (null unless `by_step`), then those of `similarity_of_records`.

    Args:
        labels: names of the sides, for the notes.
        parts: rows of the sides, one cell per corpus, recipe and kind, and per step if `by_step`.
    """
    recorded = [select_recorded(part) for part in parts]
    lacking = [label for label, part in zip(labels, recorded, strict=True) if part.is_empty()]
    if lacking:
        return pl.DataFrame(schema={**KEYS, **SCHEMA}), [NO_RECORDS.format(" and ".join(lacking))]
    on = ["corpus", "recipe", "kind", *(["step"] if by_step else [])]
    cells = [part.select(*on, "cell_id", "record", "lake").unique().sort(on) for part in recorded]
    loaded = [load_records(part) for part in cells]
    found: list[pl.DataFrame] = []
    notes: list[str] = []
    for row in cells[0].join(cells[1], on=on, suffix="_b").iter_rows(named=True):
        pair = [records.get(row[name]) for records, name in zip(loaded, ("cell_id", "cell_id_b"), strict=True)]
        if pair[0] is None or pair[1] is None:
            continue  # a damaged file, which was reported when it was read
        try:
            part = similarity_of_records(pair[0], pair[1])
        except UsageError as error:
            notes.append(f"no similarity on {row['corpus']}: {error.found}")
            continue
        keys = {name: pl.lit(row.get(name), kind) for name, kind in KEYS.items()}
        found.append(part.select(**keys, **{name: pl.col(name) for name in SCHEMA}))
    return pl.concat([pl.DataFrame(schema={**KEYS, **SCHEMA}), *found]), list(dict.fromkeys(notes))
