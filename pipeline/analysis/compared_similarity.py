"""Similarity of corresponding layers in a comparison, from similarity records of equal tokens."""

from collections.abc import Sequence
from typing import Any

import polars as pl

from pipeline.analysis.recorded_cells import load_records, select_recorded
from pipeline.analysis.similarity_of_records import SCHEMA, explain_nulls, similarity_of_records
from pipeline.errors import UsageError
from pipeline.lake.cell_records import CellRecords

KEYS: dict[str, Any] = {
    **dict.fromkeys(("corpus", "recipe", "kind"), pl.String()),
    "step": pl.Int64(),
}
MAX_NOTES = 6
NO_RECORDS = "no similarity: the lake has no similarity records of {}; add `similarity:` to the sweep"


def compare_records(
    labels: Sequence[str], parts: Sequence[pl.DataFrame], by_step: bool
) -> tuple[pl.DataFrame, list[str]]:
    """Compare the similarity records of two sides, and list what could not be compared.

    Columns: `corpus`, `recipe`, `kind` and `step` (null unless `by_step`), then those of `similarity_of_records`. The
    information imbalance, which needs all ranks, is that of the last common step only. Cells with records of several
    sizes are compared by the largest number of tokens that most of them have.

    Args:
        labels: names of the sides, for the notes.
        parts: rows of the sides, one cell per corpus, recipe and kind, and per step if `by_step`.
    """
    recorded = [select_recorded(part) for part in parts]
    lacking = [label for label, part in zip(labels, recorded, strict=True) if part.is_empty()]
    if lacking:
        return pl.DataFrame(schema={**KEYS, **SCHEMA}), [NO_RECORDS.format(" and ".join(lacking))]
    on = ["corpus", "recipe", "kind", *(["step"] if by_step else [])]
    cells = [part.unique("cell_id").select(*on, "cell_id", "records", "lake").sort(on) for part in recorded]
    pairs = cells[0].join(cells[1], on=on, suffix="_b")
    last = pairs.filter(pl.col("step") == pl.col("step").max()) if by_step else pairs
    with_ranks = _load(last, ranks=True)
    loaded = _load(pairs) | with_ranks
    found: list[pl.DataFrame] = []
    notes: dict[str, list[int | None]] = {}
    for row in pairs.iter_rows(named=True):
        pair = [loaded[row[name]] for name in ("cell_id", "cell_id_b") if row[name] in loaded]
        if len(pair) < 2:
            continue  # a damaged file, which was reported when it was read
        try:
            part = similarity_of_records(pair[0], pair[1])
        except UsageError as error:
            _add(notes, row, [f"no similarity on {row['corpus']}: {error.found}"])
            continue
        bare = [label for label, cell in zip(labels, pair, strict=True) if not cell.layers]
        _add(notes, row, [f"no similarity on {row['corpus']}: {label} has no geometry" for label in bare])
        _add(notes, row, [f"on {row['corpus']}, {reason}" for reason in explain_nulls(part)])
        keys = {name: pl.lit(row.get(name), kind) for name, kind in KEYS.items()}
        found.append(part.select(**keys, **{name: pl.col(name) for name in SCHEMA}))
    return pl.concat([pl.DataFrame(schema={**KEYS, **SCHEMA}), *found]), _list_notes(notes)


def _add(notes: dict[str, list[int | None]], row: dict[str, Any], texts: list[str]) -> None:
    for text in texts:
        notes.setdefault(text, []).append(row.get("step"))


def _list_notes(notes: dict[str, list[int | None]]) -> list[str]:
    """Append its step, or its number of steps, to each note; a note about two checkpoints has no step. Cut the list."""
    texts = []
    for text, steps in notes.items():
        at = f" (step {steps[0]:,})" if len(steps) == 1 and steps[0] is not None else f" ({len(steps)} steps)"
        texts.append(text if steps[0] is None else text + at)
    more = [f"{len(texts) - MAX_NOTES} more such notes"] if len(texts) > MAX_NOTES else []
    return texts[:MAX_NOTES] + more


def _load(pairs: pl.DataFrame, ranks: bool = False) -> dict[str, CellRecords]:
    """Records of both cells of each pair by cell id, of one size where the cells share one."""
    names = ("cell_id", "records", "lake")
    sides = [pairs.select(**{name: pl.col(f"{name}{end}") for name in names}) for end in ("", "_b")]
    return load_records(pl.concat(sides), ranks)
