"""What not to believe: one row per doubt about a row of the lake, with the value, the bound and the reason."""

from typing import Any, NamedTuple

import polars as pl

from pipeline.analysis.frames import HISTORY_COLUMNS, LakeOrFrame, add_because_column, load_layer_rows


class DoubtRule(NamedTuple):
    """A rule of trust."""

    about: str
    """What is in doubt: dimension, id_authors, loss, anisotropy, row, label."""
    verdict: str
    """doubtful = do not believe it; care = believe it with the reason in mind."""
    value: pl.Expr
    """A number that is above the limit where there is a doubt."""
    limit: float
    because: str


def _flagged(word: str) -> pl.Expr:
    return pl.col("flags").list.eval(pl.element().str.starts_with(word)).list.any().cast(pl.Float64)


_COPIES = pl.col("n_duplicates") + pl.col("n_near_duplicates")
_POINTS = pl.col("n_points") + _COPIES + pl.col("n_unresolved") + pl.col("n_nonfinite")

CLEAN_AUDITS = ("NEW", "UNCHANGED")
"""States of an audit that are no finding."""

DOUBT_RULES: dict[str, DoubtRule] = {
    "status": DoubtRule("row", "doubtful", (pl.col("status") != "ok").cast(pl.Float64), 0, "its status is not ok"),
    "superseded": DoubtRule(
        "label", "doubtful", pl.col("superseded").cast(pl.Float64), 0, "the label now points at other weights"
    ),
    "mislabelled": DoubtRule(
        "label",
        "doubtful",
        pl.col("step").drop_nulls().n_unique().over(*HISTORY_COLUMNS, "layer", "weights_digest").cast(pl.Float64)
        * pl.col("step").is_not_null(),
        1,
        "labels of so many different steps have the same weights, and at most one can be right",
    ),
    "duplicate": DoubtRule(
        "label",
        "care",
        pl.col("duplicate_of").is_not_null().cast(pl.Float64),
        0,
        "another label has the same weights: the two are one measurement",
    ),
    "audit": DoubtRule(
        "label",
        "doubtful",
        (~pl.col("audit").is_in(CLEAN_AUDITS)).cast(pl.Float64),
        0,
        "an audit of the checkpoint found something: `shapelake query @audit` says what",
    ),
    "ks": DoubtRule(
        "dimension",
        "care",
        pl.col("id_ks"),
        0.1,
        "the distance of mu to a Pareto law is large: the dimension depends on the fraction that is fitted",
    ),
    "same_context": DoubtRule(
        "dimension",
        "care",
        pl.col("same_context_share"),
        0.1,
        "neighbours often share a context: the dimension is that of contexts, and too low",
    ),
    "duplicates": DoubtRule(
        "dimension", "care", _COPIES / _POINTS, 0.2, "so many points are copies: the dimension is that of the others"
    ),
    "authors_duplicates": DoubtRule(
        "id_authors",
        "doubtful",
        pl.when(pl.col("id_authors").is_not_null()).then(_COPIES / _POINTS),
        0.01,
        "copies push this estimate up, by 6 % at a share of 0.01 and twofold at 0.2",
    ),
    "noise": DoubtRule(
        "dimension",
        "doubtful",
        pl.col("noise_ratio"),
        0.03,
        "rounding of the activations is visible in the nearest distances",
    ),
    "unresolved": DoubtRule(
        "dimension", "care", pl.col("n_unresolved") / _POINTS, 0.01, "neighbours of so many points are not certain"
    ),
    "nonfinite": DoubtRule(
        "row", "doubtful", pl.col("n_nonfinite").cast(pl.Float64), 0, "so many points have a NaN or an infinity"
    ),
    "few_points": DoubtRule("dimension", "care", _flagged("few_points"), 0, "a group has fewer than 500 points"),
    "round_trip": DoubtRule(
        "row", "care", _flagged("tokenizer_round_trip"), 0, "decoding the tokens does not give the text back"
    ),
    "unexpected_keys": DoubtRule(
        "row", "care", _flagged("unexpected_keys"), 0, "the checkpoint has weights that the model does not use"
    ),
    "shorter_context": DoubtRule(
        "row", "care", _flagged("shorter_context"), 0, "contexts are shorter than the recipe's: compare with care"
    ),
}
"""Limits, with their reasons, are those of the recipes' page and of `pipeline metrics`; `ks` and `same_context` are
sizes at which dimension was seen to move by a tenth, not tests."""


def list_doubts(lake: LakeOrFrame) -> pl.DataFrame:
    """Every doubt about every row.

    Columns: keys, `revision`, `step`, `layer`, `doubt` (a name of DOUBTS), `about` (dimension, id_authors, row,
    label), `verdict` (doubtful, care), `value`, `limit`, `because`. A row that is not listed has none.
    """
    frame = load_layer_rows(lake)
    kept = [*HISTORY_COLUMNS, "revision", "step", "layer"]
    found = [
        frame.select(
            *kept,
            doubt=pl.lit(name),
            about=pl.lit(rule.about),
            verdict=pl.lit(rule.verdict),
            value=rule.value,
            limit=pl.lit(rule.limit, pl.Float64),
        ).filter(pl.col("value") > rule.limit)
        for name, rule in DOUBT_RULES.items()
    ]
    return add_because_column(
        pl.concat(found).sort(*HISTORY_COLUMNS, "step", "revision", "layer", nulls_last=True), _sentence
    )


def compute_trust(lake: LakeOrFrame) -> pl.DataFrame:
    """How far to believe each history: one row per (keys, what is in doubt).

    Columns: keys, `about`, `verdict` (the worst: doubtful = a row not to be believed, care; sound = no row in doubt),
    `share` of the rows that have a doubt of this verdict, `rows`, `because` (the commonest of these doubts).
    """
    every = load_layer_rows(lake).group_by(HISTORY_COLUMNS).agg(rows=pl.len())
    about = pl.DataFrame({"about": sorted({rule.about for rule in DOUBT_RULES.values()})})
    every = every.join(about, how="cross")
    found, of = list_doubts(lake), [*HISTORY_COLUMNS, "about"]
    worst = found.filter(pl.col("verdict") == pl.col("verdict").max().over(of))  # doubtful > care, as words too
    said = worst.group_by(of).agg(
        pl.col("verdict").first(),
        _rows=pl.struct("revision", "layer").n_unique(),
        _most=pl.col("doubt").mode().sort().first(),
    )
    table = every.join(said, on=of, how="left", nulls_equal=True).with_columns(
        verdict=pl.col("verdict").fill_null("sound"), share=pl.col("_rows").fill_null(0) / pl.col("rows")
    )
    return add_because_column(table.select(*of, "verdict", "share", "rows", "_most").sort(of), _history_sentence).drop(
        "_most"
    )


def _sentence(row: dict[str, Any]) -> str:
    rule = DOUBT_RULES[row["doubt"]]
    size = "" if rule.limit == 0 and row["value"] == 1 else f" ({row['value']:.3g} > {rule.limit:g})"
    return f"{rule.because[0].upper()}{rule.because[1:]}{size}."


def _history_sentence(row: dict[str, Any]) -> str:
    if row["verdict"] == "sound":
        return f"No doubt about {row['about']} in {row['rows']} rows."
    said = {"doubtful": "not to be believed", "care": "to be believed with care"}[row["verdict"]]
    return (
        f"{row['share']:.0%} of {row['rows']} rows are {said}, most often because {DOUBT_RULES[row['_most']].because}."
    )
