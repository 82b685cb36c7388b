"""Similarity of corresponding layers of the two sides of a comparison, from similarity records of the same tokens."""

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
    """Compare the similarity records of two sides; return the similarities, and notes on what was not compared.

    The frame has the columns `corpus`, `recipe`, `kind` and `step` (null unless `by_step`), followed by those of
    `similarity_of_records`. If histories are compared, the information imbalance is computed only at the last common
    step of each corpus, recipe and kind, since the ranks that it needs take much memory. If cells have records of
    several sizes, those with the number of tokens that most cells have are compared.

    Args:
        labels: names of the two sides, for the notes.
        parts: rows of the two sides, with one cell per corpus, recipe and kind, and per step if `by_step`.
        by_step: true if the sides are histories, which are compared at each step that both have.
    """
    recorded = [select_recorded(part) for part in parts]
    lacking = [label for label, part in zip(labels, recorded, strict=True) if part.is_empty()]
    if lacking:
        return pl.DataFrame(schema={**KEYS, **SCHEMA}), [NO_RECORDS.format(" and ".join(lacking))]
    on = ["corpus", "recipe", "kind", *(["step"] if by_step else [])]
    cells = [part.unique("cell_id").select(*on, "cell_id", "records", "lake").sort(on) for part in recorded]
    pairs = cells[0].join(cells[1], on=on, suffix="_b")
    with_ranks = _load(select_last_steps(pairs) if by_step else pairs, ranks=True)
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


def select_last_steps(frame: pl.DataFrame) -> pl.DataFrame:
    """Select the rows of the last step of each corpus, recipe and kind; all rows if `step` is null."""
    if frame.is_empty():
        return frame
    return frame.filter(pl.col("step").eq_missing(pl.col("step").max().over("corpus", "recipe", "kind")))


def _add(notes: dict[str, list[int | None]], row: dict[str, Any], texts: list[str]) -> None:
    for text in texts:
        notes.setdefault(text, []).append(row.get("step"))


def _list_notes(notes: dict[str, list[int | None]]) -> list[str]:
    """Return at most MAX_NOTES notes, followed by the number of further ones.

    Each note ends with its step, or with the number of its steps if there are several. A note on a comparison of two
    checkpoints has no step.
    """
    texts = []
    for text, steps in notes.items():
        at = f" (step {steps[0]:,})" if len(steps) == 1 and steps[0] is not None else f" ({len(steps)} steps)"
        texts.append(text if steps[0] is None else text + at)
    more = [f"{len(texts) - MAX_NOTES} more such notes"] if len(texts) > MAX_NOTES else []
    return texts[:MAX_NOTES] + more


def _load(pairs: pl.DataFrame, ranks: bool = False) -> dict[str, CellRecords]:
    """Load the records of both cells of each pair, by cell id; all of one size if all cells have records of it."""
    names = ("cell_id", "records", "lake")
    sides = [pairs.select(**{name: pl.col(f"{name}{end}") for name in names}) for end in ("", "_b")]
    return load_records(pl.concat(sides), ranks)
