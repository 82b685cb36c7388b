"""Differences between two checkpoints, two histories or two corpora, layer by layer and for every headline metric.

A row is compared only with a row of the same recipe and, unless corpora are compared, of the same corpus. Layers are
matched by depth. A difference is the value of the second side minus that of the first; its interval is paired where
both rows read the same tokens.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, NoReturn

import polars as pl

from pipeline.analysis.comparable import CHECKPOINTS, CORPORA, HISTORIES, compared_columns, require_comparable
from pipeline.analysis.compared_similarity import compare_records, select_last_steps
from pipeline.analysis.frames import select_block_rows
from pipeline.analysis.group_errors import add_errors, average_points, subtract_rows
from pipeline.analysis.model_batches import ModelRows
from pipeline.analysis.sides import Labels, Side, has_several_steps, match_corpora, select_side
from pipeline.errors import UsageError
from pipeline.lake.reader import LakeReader

HEADLINE_METRICS = (
    *("anisotropy", "anisotropy_no_sink", "id_twonn", "id_mle", "id_gride_4", "id_gride_16", "participation_ratio"),
    *("effective_rank_sigma", "alpha", "cosine_mean", "linearity", "loss"),
)
NUMBERS = ("a", "b", "difference", "low", "high")
ROW_TYPES: dict[str, Any] = {
    **dict.fromkeys(("metric", "corpus", "corpus_b", "recipe", "kind"), pl.String()),
    **{"step": pl.Int64(), "layer": pl.Int64(), "layer_b": pl.Int64(), "depth": pl.Float64(), "state": pl.String()},
    **dict.fromkeys(NUMBERS, pl.Float64()),
    "paired": pl.Boolean(),
}


class Comparison(NamedTuple):
    """Result of a comparison; every difference is the value of the second side minus that of the first."""

    of: str
    """What is compared: `checkpoints`, `histories` or `corpora`."""
    first: Side
    second: Side
    rows: pl.DataFrame
    """One row per metric, corpus, recipe, step and layer, with the columns of ROW_TYPES. `layer` is null for the mean
    over the blocks and for the loss. `step` is null unless histories are compared, since two checkpoints may have
    different steps."""
    notes: tuple[str, ...]
    """Notes on unpaired differences, unmatched layers and missing similarities."""
    similarity: pl.DataFrame
    """Similarity of corresponding layers, in the frame of `compare_records`; empty without records of the same
    tokens."""

    def last_rows(self) -> pl.DataFrame:
        """Return `rows`; of two histories, only those of the last common step of each corpus, recipe and kind."""
        return select_last_steps(self.rows)

    def last_similarity(self) -> pl.DataFrame:
        """Return `similarity`; of two histories, only that of the last step that has one, chosen as in `last_rows`."""
        return select_last_steps(self.similarity)


def compare(reader: LakeReader, first: str, second: str | None = None, corpora: Sequence[str] = ()) -> Comparison:
    """Compare two labels (see `pipeline.analysis.sides`), or one label on two corpora.

    Whole histories are compared if neither label has a revision and both have several steps. Otherwise a label without
    a revision stands for its newest checkpoint.

    Args:
        corpora: names or globs of the corpora to which the comparison is restricted; empty for all. If two are given
            with one label, the two corpora are compared.

    Raises:
        UsageError: a name is not in the lake or ambiguous, or the sides are not comparable. The message names the first
            field in which they differ.
    """
    rows = ModelRows(reader)
    matched = match_corpora(rows, corpora)
    asked = _choose_sides(Labels(reader, rows.models), first, second or first, corpora, matched)
    frame = rows.load(sorted({side.model for side in asked}))
    whole = all(side.revision is None and has_several_steps(frame, side) for side in asked) and len(corpora) < 2
    of = CORPORA if len(corpora) == 2 else HISTORIES if whole else CHECKPOINTS
    chosen = [_select_rows(frame, side, names, whole) for side, names in zip(asked, _corpora_of(matched), strict=True)]
    sides, parts = [side for side, _ in chosen], [part for _, part in chosen]
    if sides[0].equals(sides[1]):
        _refuse_equal_sides(first, second or first)
    parts = require_comparable(of, sides, parts)
    table = pl.concat([_subtract(of, metric, *parts) for metric in HEADLINE_METRICS])
    similarity, left_out = _compare_tokens(of, sides, parts)
    notes = (*_list_notes(table, *parts), *left_out)
    return Comparison(of, sides[0], sides[1], table, notes, similarity)


def _compare_tokens(
    of: str, sides: Sequence[Side], parts: Sequence[pl.DataFrame]
) -> tuple[pl.DataFrame, Sequence[str]]:
    if of == CORPORA:
        return pl.DataFrame(), ["no similarity: layers are compared on the same tokens, which two corpora do not share"]
    return compare_records([str(side) for side in sides], parts, by_step=of == HISTORIES)


def _choose_sides(
    labels: Labels, first: str, second: str, corpora: Sequence[str], matched: Sequence[Sequence[str]]
) -> list[Side]:
    sides = [labels.parse(text) for text in (first, second)]
    if len(corpora) > 2:
        found = f"{len(corpora)} corpora were given"
        raise UsageError(f"--corpus {','.join(corpora)}", found, "Name one corpus, or two to compare them")
    if len(corpora) == 2:
        if sides[0] != sides[1]:
            do = "Leave out the second label, or give one corpus"
            raise UsageError(f"compare {first} {second} on two corpora", "both labels and corpora differ", do)
        names = _require_two_corpora(corpora, matched)
        return [side._replace(corpus=name) for side, name in zip(sides, names, strict=True)]
    if sides[0].equals(sides[1]):
        _refuse_equal_sides(first, second)
    shown = corpora[0] if corpora and len(matched[0]) > 1 else matched[0][0] if corpora else None
    return [side._replace(corpus=shown) for side in sides]


def _require_two_corpora(corpora: Sequence[str], matched: Sequence[Sequence[str]]) -> list[str]:
    asked = f"--corpus {','.join(corpora)}"
    for glob, names in zip(corpora, matched, strict=True):
        if len(names) > 1:
            raise UsageError(asked, f"{glob} matches {', '.join(names)}", "Name two corpora exactly")
    if matched[0] == matched[1]:
        raise UsageError(asked, f"{matched[0][0]} is named twice", "Name two different corpora")
    return [names[0] for names in matched]


def _refuse_equal_sides(first: str, second: str) -> NoReturn:
    asked = f"compare {first}" if first == second else f"compare {first} and {second}"
    raise UsageError(asked, "both sides are the same", "Name another label, or two corpora: --corpus C,C2")


def _corpora_of(matched: Sequence[Sequence[str]]) -> Sequence[Sequence[str]]:
    """Return the corpora of the first and of the second side; an empty sequence stands for all corpora."""
    return matched if len(matched) == 2 else [*matched, *matched] or [(), ()]


def _select_rows(frame: pl.DataFrame, side: Side, corpora: Sequence[str], whole: bool) -> tuple[Side, pl.DataFrame]:
    """Return a side with the run that it stands for, and its rows on these corpora; on all if `corpora` is empty."""
    if not corpora:
        return select_side(frame, side, whole)
    rows = side.select_from(frame)
    rows = rows if side.revision is None else rows.filter(pl.col("revision") == side.revision)
    on_corpora = frame.filter(pl.col("corpus").is_in(list(corpora)))
    if not rows.is_empty() and rows.join(on_corpora, on="cell_id", how="semi").is_empty():
        do = "Write one of these corpora after --corpus, or first measure this side on the corpus that you named"
        raise UsageError(f"{side}", f"it was measured on {', '.join(rows['corpus'].unique().sort())}", do)
    return select_side(on_corpora, side, whole)


def _subtract(of: str, metric: str, first: pl.DataFrame, second: pl.DataFrame) -> pl.DataFrame:
    """Return the differences of one metric for each layer that both sides have, and for the mean over their blocks.

    The loss has one difference per checkpoint.
    """
    on = compared_columns(of)
    points = [add_errors(part, metric).filter(pl.col("value").is_not_null()) for part in (first, second)]
    if metric == "loss":
        points = [part.unique([*on, "corpus"], keep="last", maintain_order=True) for part in points]
        rows = _join(points, on)
        blank = {name: pl.lit(None, ROW_TYPES[name]) for name in ("layer", "layer_b", "depth", "state")}
        return _finish(of, metric, rows.with_columns(**blank))
    layers = _join(points, [*on, "state", "_depth"])
    shared = layers.filter(state="block").select([*on, "_depth"]).unique()
    blocks = [select_block_rows(part).join(shared, on=[*on, "_depth"], how="semi", nulls_equal=True) for part in points]
    keys = [*on, "contexts_digest", *(("corpus",) if "corpus" not in on else ())]
    means = _join([average_points(part, keys) for part in blocks], on)
    blank = {name: pl.lit(None, ROW_TYPES[name]) for name in ("layer", "layer_b", "depth", "state")}
    return pl.concat([_finish(of, metric, means.with_columns(**blank)), _finish(of, metric, layers)])


def _join(points: Sequence[pl.DataFrame], on: list[str]) -> pl.DataFrame:
    """Join the points of the two sides; the columns of the second side get the ending `_b`."""
    return points[0].join(points[1], on=on, suffix="_b", nulls_equal=True, maintain_order="left")


def _finish(of: str, metric: str, rows: pl.DataFrame) -> pl.DataFrame:
    """Return one row of ROW_TYPES per pair of points, with the difference and its interval."""
    used = ("value", "se", "df", "deviations", "contexts_digest")
    found: list[dict[str, Any]] = []
    for row in rows.iter_rows(named=True):
        a, b = ({name: row[f"{name}{end}"] for name in used} for end in ("", "_b"))
        change, paired = subtract_rows(b, a)
        kept = {name: row.get(name) for name in ROW_TYPES}
        kept |= {"step": row["step"] if of == HISTORIES else None, "corpus_b": row.get("corpus_b", row.get("corpus"))}
        kept |= dict(zip(NUMBERS, (a["value"], b["value"], *change), strict=True))
        found.append(kept | {"metric": metric, "paired": paired})
    return pl.DataFrame(found, schema=ROW_TYPES)


def _list_notes(table: pl.DataFrame, first: pl.DataFrame, second: pl.DataFrame) -> list[str]:
    notes = []
    unpaired = table.filter(~pl.col("paired"))
    if not unpaired.is_empty():
        whole = unpaired.height == table.height
        subject = "Differences are" if whole else f"{unpaired.height} of {table.height} differences are"
        notes.append(f"{subject} unpaired: the two sides read different tokens, or rows have no values per group.")
    blocks = [part.filter(state="block")["_depth"].n_unique() for part in (first, second)]
    matched = table.filter(state="block")["depth"].n_unique()
    if min(blocks) != matched or blocks[0] != blocks[1]:
        notes.append(
            f"The sides have {blocks[0]} and {blocks[1]} blocks; only the {matched} of equal depth are compared."
        )
    if {*first["tokenizer_digest"]} != {*second["tokenizer_digest"]}:
        notes.append("The tokenizers differ, so losses per token are not comparable.")
    if first["stack"][0] != second["stack"][0]:
        notes.append(f"The kinds are {first['kind'][0]}: a causal and a masked loss are not comparable.")
    if table["low"].null_count():
        notes.append("Rows without standard errors have no interval.")
    return notes
