"""Reliability of measurements: the doubts about the rows of a lake, each with a value, its limit and the reason."""

from typing import Any, NamedTuple

import polars as pl

from pipeline.analysis.frames import HISTORY_COLUMNS, LakeOrFrame, add_because_column, load_layer_rows


class DoubtRule(NamedTuple):
    """A condition under which part of a row is unreliable."""

    about: str
    """Part of the row that is in doubt: `dimension`, `id_authors`, `row` (all of it) or `label`."""
    verdict: str
    """`doubtful` if the part is unreliable; `care` if it is reliable as long as the reason is kept in mind."""
    value: pl.Expr
    """A number, or a condition as 0 or 1. There is a doubt if it exceeds `limit`."""
    limit: float
    because: str
    """Reason of the doubt, as a clause."""


def _flagged(word: str) -> pl.Expr:
    return pl.col("flags").list.eval(pl.element().str.starts_with(word)).list.any()


_COPIES = pl.col("n_duplicates") + pl.col("n_near_duplicates")
_ALL = pl.col("n_points") + _COPIES + pl.col("n_unresolved") + pl.col("n_nonfinite")
_COPIED_SHARE = _COPIES / _ALL
_STEPS = pl.col("step").drop_nulls().n_unique().over(*HISTORY_COLUMNS, "layer", "weights_digest")
"""Number of different steps whose labels, in the same history, have the weights of this row."""
SOUND = "sound"
"""Verdict on a part of a history about which there is no doubt."""
WORST_FIRST = ("doubtful", "care", SOUND)
CLEAN_AUDITS = ("NEW", "UNCHANGED")
"""States of audited checkpoints about which the audit reported nothing."""

DOUBT_RULES: dict[str, DoubtRule] = {
    "status": DoubtRule("row", "doubtful", pl.col("status") != "ok", 0, "its status is not ok"),
    "superseded": DoubtRule("label", "doubtful", pl.col("superseded"), 0, "the label now points at other weights"),
    "mislabelled": DoubtRule(
        "label",
        "doubtful",
        _STEPS * pl.col("step").is_not_null(),
        1,
        "labels of several steps have these weights, and at most one can be right",
    ),
    "duplicate": DoubtRule(
        "label",
        "care",
        pl.col("duplicate_of").is_not_null(),
        0,
        "another label has the same weights, so the two are one measurement",
    ),
    "audit": DoubtRule(
        "label",
        "doubtful",
        ~pl.col("audit").is_in(CLEAN_AUDITS),
        0,
        "an audit of the checkpoint reported a finding, listed by `shapelake query @audit`",
    ),
    "ks": DoubtRule(
        "dimension",
        "care",
        pl.col("id_ks"),
        0.1,
        "mu is far from a Pareto law, so the dimension depends on the fitted fraction",
    ),
    "same_context": DoubtRule(
        "dimension",
        "care",
        pl.col("same_context_share"),
        0.1,
        "neighbours often come from the point's own context, so the dimension is that of single contexts and too low",
    ),
    "same_token": DoubtRule(
        "dimension",
        "care",
        pl.col("same_token_share"),
        0.1,
        "neighbours are often the same token, so the dimension is partly that of token clusters (see `controls`)",
    ),
    "duplicates": DoubtRule(
        "dimension", "care", _COPIED_SHARE, 0.2, "many points are copies; the dimension covers only the others"
    ),
    "authors_duplicates": DoubtRule(
        "id_authors",
        "doubtful",
        pl.when(pl.col("id_authors").is_not_null()).then(_COPIED_SHARE),
        0.01,
        "copies bias this estimate upward, by 6 % at a share of 0.01 and by a factor of 2 at 0.2",
    ),
    "noise": DoubtRule(
        "dimension",
        "doubtful",
        pl.col("noise_ratio"),
        0.03,
        "rounding of the activations is visible in the nearest distances",
    ),
    "unresolved": DoubtRule(
        "dimension", "care", pl.col("n_unresolved") / _ALL, 0.01, "the neighbours of some points could not be certified"
    ),
    "nonfinite": DoubtRule("row", "doubtful", pl.col("n_nonfinite"), 0, "some points have a NaN or an infinity"),
    "few_points": DoubtRule("dimension", "care", _flagged("few_points"), 0, "a group has fewer than 500 points"),
    "round_trip": DoubtRule(
        "row", "care", _flagged("tokenizer_round_trip"), 0, "decoding the tokens does not reproduce the text"
    ),
    "unexpected_keys": DoubtRule(
        "row", "care", _flagged("unexpected_keys"), 0, "the checkpoint has weights that the model does not use"
    ),
    "shorter_context": DoubtRule(
        "row", "care", _flagged("shorter_context"), 0, "contexts are shorter than the recipe's"
    ),
}
"""Rules by name of the doubt. The limits are those of `pipeline/recipes.md` and `shapelake metrics`. Those of `ks`,
`same_context` and `same_token` come from no test; the first two are the values at which dimension was observed to
change by 10 %."""


def list_doubts(lake: LakeOrFrame) -> pl.DataFrame:
    """List every doubt about every row of the lake; a row without a doubt is not listed.

    Columns, one row per doubt: the keys of a history, `revision`, `step`, `layer`, `doubt` (a name in DOUBT_RULES), the
    fields `about`, `verdict`, `value` and `limit` of its rule, and `because` (the reason with the value and the limit).
    """
    frame = load_layer_rows(lake)
    kept = [*HISTORY_COLUMNS, "revision", "step", "layer"]
    doubts = []
    for name, rule in DOUBT_RULES.items():
        words = {"doubt": pl.lit(name), "about": pl.lit(rule.about), "verdict": pl.lit(rule.verdict)}
        numbers = {"value": rule.value.cast(pl.Float64), "limit": pl.lit(rule.limit, pl.Float64)}
        doubts.append(frame.select(*kept, **words, **numbers).filter(pl.col("value") > rule.limit))
    found = pl.concat(doubts).sort(*HISTORY_COLUMNS, "step", "revision", "layer", nulls_last=True)
    return add_because_column(found, _sentence)


def compute_trust(lake: LakeOrFrame) -> pl.DataFrame:
    """Summarize the doubts about each history.

    Columns, one row per history and part that can be in doubt:

    - the keys of a history
    - `about`: the part, `dimension`, `id_authors`, `row` or `label`
    - `verdict`, the worst one of all rows:
        - `doubtful`: the part is unreliable in some rows.
        - `care`: the part needs care in some rows.
        - `sound`: no row has a doubt about it.
    - `share`: share of the rows that have a doubt with this verdict
    - `rows`: number of rows of the history
    - `doubt`: the most frequent of these doubts, a name in DOUBT_RULES; null if there is none
    - `because`: the result in one sentence
    """
    every = load_layer_rows(lake).group_by(HISTORY_COLUMNS).agg(rows=pl.len())
    parts = sorted({rule.about for rule in DOUBT_RULES.values()})
    every = every.join(pl.DataFrame({"about": parts}), how="cross")
    doubts, of = list_doubts(lake), [*HISTORY_COLUMNS, "about"]
    worst = doubts.filter(pl.col("verdict") == pl.col("verdict").max().over(of))  # alphabetically, doubtful > care
    rows, most = pl.struct("revision", "layer").n_unique(), pl.col("doubt").mode().sort().first()
    summary = worst.group_by(of).agg(pl.col("verdict").first(), _rows=rows, doubt=most)
    share = pl.col("_rows").fill_null(0) / pl.col("rows")
    table = every.join(summary, on=of, how="left", nulls_equal=True).sort(of)
    table = table.select(*of, pl.col("verdict").fill_null(SOUND), share.alias("share"), "rows", "doubt")
    return add_because_column(table, _history_sentence)


def _sentence(row: dict[str, Any]) -> str:
    rule = DOUBT_RULES[row["doubt"]]
    size = "" if rule.limit == 0 and row["value"] == 1 else f" ({row['value']:.3g} > {rule.limit:g})"
    return f"{rule.because[0].upper()}{rule.because[1:]}{size}."


def _history_sentence(row: dict[str, Any]) -> str:
    if row["verdict"] == SOUND:
        return f"No doubt about {row['about']} in {row['rows']} rows."
    text = {"doubtful": "are unreliable", "care": "need care"}[row["verdict"]]
    reason = DOUBT_RULES[row["doubt"]].because
    return f"{row['share']:.0%} of {row['rows']} rows {text}, most often because {reason}."
