"""Tests of published claims on a lake: each claim is supported, contradicted or undecided for each history.

A claim takes its answer at 95 % from rows of a finding. The answer stands only if it also holds after Holm's correction
over all claims and histories that were tested. Rows on random tokens count only for claims about random tokens. The
page `pipeline/analysis/claims.md` lists the claims.
"""

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import polars as pl

from pipeline.analysis import FINDINGS, compute_findings
from pipeline.analysis.brief import NO_VERDICTS
from pipeline.analysis.claim_registry import PublishedClaim, load_claims
from pipeline.analysis.claim_tests import combine_any, combine_limits, correct_holm, name_without_width
from pipeline.analysis.claims import CONTRADICTS, SUPPORTS, UNDECIDED
from pipeline.analysis.frames import HISTORY_COLUMNS, LakeOrFrame, load_group_counts
from pipeline.analysis.random_baselines import RANDOM_CORPUS_PREFIX

SIGNIFICANCE_LEVEL, ROUNDING = 0.05, 1e-9
UNTESTED_WORDS = (*NO_VERDICTS, "absent", "no_large_norm", "all_large_norm")
"""Verdicts of findings whose rows test no claim."""
ROW_TYPES: dict[str, Any] = {
    **dict.fromkeys(("claim", *HISTORY_COLUMNS, "null", "verdict", "answer", "answer_alone", "column"), pl.String()),
    **dict.fromkeys(("effect", "low", "high", "level", "p", "p_holm"), pl.Float64()),
    "because": pl.String(),
}


class ClaimAnswer(NamedTuple):
    """Answer of one row of a finding to a claim, before the correction for the number of tests."""

    answer: str
    p: float | None
    """Two-sided p of the answer. If undecided, it is the smaller p of support and contradiction, but at least 5 %. None
    if nothing was tested."""
    column: str
    """Column of the finding that holds the effect."""
    verdict: str | None
    """Verdict of the finding."""
    because: str
    """Reason of the answer, or the limits that decide it."""


def compute_claims(lake: LakeOrFrame, models: str = "*", corpus: str = "*") -> pl.DataFrame:
    """Test every claim of the registry on every history of a lake, or of the frame of `load_layer_rows`.

    Columns, one row per claim and history, or per claim and comparison of models:

    - `claim`: name in the registry
    - the keys of the history, which are null where a comparison of models does not have them
    - `null`: name of the random tokens with which the text is compared; null for other claims
    - `verdict`: verdict of the finding
    - `answer`: `supports`, `contradicts` or `undecided`, after the correction for the number of tests
    - `answer_alone`: the answer before the correction
    - `column`: column of the finding that has the effect
    - `effect`, `low`, `high`, `level`: the effect with its interval, and the coverage of the interval
    - `p`: two-sided p of the answer; null if nothing was tested
    - `p_holm`: p after Holm's correction; null if nothing was tested
    - `because`: reason of the answer in one sentence

    Error: at most 5 % of lakes in which no claim is true have any `supports`; measured rates are in claims.md.

    Args:
        models: glob that selects models of the lake.
        corpus: glob that selects corpora of the lake.

    Raises:
        UsageError: no model or corpus of the lake matches.
    """
    names = sorted({claim.finding for claim in load_claims().values()} & set(FINDINGS))
    found = compute_findings(names, lake, models, corpus)
    return judge_claims(found, count_groups(lake))


def count_groups(lake: LakeOrFrame) -> dict[str, int]:
    """Return the number of context groups of each recipe."""
    frame = lake if isinstance(lake, pl.DataFrame) else load_group_counts(lake.uri)
    counts = frame.select("recipe", "groups").drop_nulls().unique("recipe")
    return dict(counts.iter_rows())


def judge_claims(found: Mapping[str, pl.DataFrame], groups: Mapping[str, int]) -> pl.DataFrame:
    """Test the claims that these findings bear on; return the columns of `compute_claims`.

    Args:
        found: frames of findings by name.
        groups: number of context groups by recipe.
    """
    histories = _list_histories(found)
    claims = [claim for claim in load_claims().values() if claim.finding in found]
    rows = [row for claim in claims for row in _judge_claim(claim, found, histories, groups)]
    tested = [row for row in rows if row["p"] is not None]
    for row, p in zip(tested, correct_holm([row["p"] for row in tested]), strict=True):
        row |= {"p_holm": p, "answer": row["answer_alone"] if p < SIGNIFICANCE_LEVEL else UNDECIDED}
    for row in rows:
        row["because"] = _explain(row, len(tested))
    return pl.DataFrame(rows, schema=ROW_TYPES)


def describe_correction(claims: pl.DataFrame) -> str:
    """Return one sentence that states the correction and the number of tests."""
    tests, level = count_tests(claims), f"{SIGNIFICANCE_LEVEL:.0%}".replace("%", " %")
    if not tests:
        return "Nothing was tested, so nothing is corrected."
    return (
        f"Answers hold after Holm's correction over {tests} tests (claims x histories): at most {level} of lakes "
        "have any wrong answer by chance."
    )


def count_tests(claims: pl.DataFrame) -> int:
    """Return the number of tests that the correction covers."""
    return claims["p"].drop_nulls().len()


def _list_histories(found: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """Return the keys of all histories on texts for which at least one finding has a row."""
    types: dict[str, Any] = dict.fromkeys(HISTORY_COLUMNS, pl.String())
    keyed = [part.select(HISTORY_COLUMNS) for part in found.values() if set(HISTORY_COLUMNS) <= set(part.columns)]
    keys = pl.concat([pl.DataFrame(schema=types), *keyed]).unique().sort(HISTORY_COLUMNS)
    return keys.filter(~pl.col("corpus").str.starts_with(RANDOM_CORPUS_PREFIX))


def _judge_claim(
    claim: PublishedClaim, found: Mapping[str, pl.DataFrame], histories: pl.DataFrame, groups: Mapping[str, int]
) -> Iterator[dict[str, Any]]:
    """Yield a row for each row of the claim's finding, and an undecided one for each history without such a row."""
    rows = _select_rows(claim, found[claim.finding])
    for row in rows.iter_rows(named=True):
        yield _make_row(claim, row, _answer(claim, row, groups.get(row["recipe"])))
    missing = ClaimAnswer(UNDECIDED, None, claim.effect_column, None, f"the claim needs {claim.needs}")
    if claim.compares_models:
        if rows.is_empty():
            yield _make_row(claim, {}, missing)
        return
    wanted = histories.filter(_concerns(claim))
    if claim.min_params:  # a history without a row of the finding has no known size
        return
    for row in wanted.join(rows, on=HISTORY_COLUMNS, how="anti", nulls_equal=True).iter_rows(named=True):
        yield _make_row(claim, row, missing)


def _concerns(claim: PublishedClaim) -> pl.Expr:
    """Return the condition that a claim is about a history."""
    about = pl.col("kind").is_in(list(claim.kinds))
    matches = pl.col("model").map_elements(lambda name: fnmatchcase(name.lower(), claim.models), pl.Boolean)
    return about if claim.models == "*" else about & matches


def _select_rows(claim: PublishedClaim, rows: pl.DataFrame) -> pl.DataFrame:
    for name, value in claim.rows.items():
        rows = rows.filter(pl.col(name).is_null() if value is None else pl.col(name) == value)
    rows = rows.filter(~pl.col("corpus").str.starts_with(RANDOM_CORPUS_PREFIX))
    if claim.min_params:
        rows = rows.filter(pl.col("n_params") >= claim.min_params)
    return rows if claim.compares_models else rows.filter(_concerns(claim))


def _answer(claim: PublishedClaim, row: dict[str, Any], groups: int | None) -> ClaimAnswer:
    column = claim.effect_column
    if claim.premise and row["verdict"] not in NO_VERDICTS and not claim.premise.holds(row):
        return ClaimAnswer(UNDECIDED, None, column, row["verdict"], claim.unmet)
    if claim.p:
        answer, p = row[claim.column or "claim"], row[claim.p]
        because = row["because"] if answer == UNDECIDED else ""
        return ClaimAnswer(answer, _at_least_level(answer, p), column, row["verdict"], because)
    against, limit = combine_any(row, claim.contradicts, groups)
    sides = {SUPPORTS: combine_limits(row, claim.supports, groups), CONTRADICTS: against}
    known = {word: p for word, p in sides.items() if p is not None}
    if row["verdict"] in UNTESTED_WORDS or not known:
        name = None if known else name_without_width(row, (*claim.supports, *claim.contradicts))
        because = f"the interval of {name} has no width, so its error is unknown" if name else row["because"]
        return ClaimAnswer(UNDECIDED, None, column, row["verdict"], because)
    answer = row[claim.column] if claim.column else _decide_by_limits(claim, row, known)
    p = known.get(answer, 1.0)
    if p > SIGNIFICANCE_LEVEL * (1 + ROUNDING):
        return _leave_open(claim, row, min(known.values()))
    if answer == CONTRADICTS and limit is not None:
        return ClaimAnswer(answer, p, limit.column, row["verdict"], str(limit))
    return ClaimAnswer(answer, p, column, row["verdict"], " and ".join(str(limit) for limit in claim.supports))


def _leave_open(claim: PublishedClaim, row: dict[str, Any], nearer: float) -> ClaimAnswer:
    """Return the answer `undecided`; `nearer` is the smaller p of the tests of support and contradiction."""
    word = (row["verdict"] or "").replace("_", " ")
    why = f"the finding {claim.finding} is {word}, so the claim is open" if nearer < SIGNIFICANCE_LEVEL else ""
    return ClaimAnswer(UNDECIDED, _at_least_level(UNDECIDED, nearer), claim.effect_column, row["verdict"], why)


def _at_least_level(answer: str, p: float | None) -> float | None:
    """Return p, raised to at least 5 % if the answer is undecided, since an undecided test has rejected nothing."""
    return p if p is None or answer != UNDECIDED else max(p, SIGNIFICANCE_LEVEL)


def _decide_by_limits(claim: PublishedClaim, row: dict[str, Any], known: Mapping[str, float]) -> str:
    allowed = not claim.verdicts or row["verdict"] in claim.verdicts
    if allowed and known.get(SUPPORTS, 1.0) < SIGNIFICANCE_LEVEL:
        return SUPPORTS
    return CONTRADICTS if known.get(CONTRADICTS, 1.0) < SIGNIFICANCE_LEVEL else UNDECIDED


def _make_row(claim: PublishedClaim, row: Mapping[str, Any], answer: ClaimAnswer) -> dict[str, Any]:
    keys = {name: row.get(name) for name in (*HISTORY_COLUMNS, "null")}
    if row.get("other_model"):
        keys["model"] = f"{row['model']}, {row['other_model']}"
    ends = {"effect": "", "low": "_low", "high": "_high"}
    numbers = {name: row.get(f"{answer.column}{end}") for name, end in ends.items()}
    numbers |= {"level": claim.level if numbers["low"] is not None else None, "p": answer.p, "p_holm": None}
    words = {"verdict": answer.verdict, "answer": answer.answer, "answer_alone": answer.answer}
    return {"claim": claim.name, **keys, **words, "column": answer.column, **numbers, "because": answer.because}


def _explain(row: Mapping[str, Any], tests: int) -> str:
    """Return the reason why an answer is undecided; for any other answer, what the correction changed."""
    if row["p"] is None:
        return row["because"]
    numbers = f"p {row['p']:.2g}, corrected {row['p_holm']:.2g}"
    if row["answer_alone"] == UNDECIDED:
        return row["because"] or f"the effect is within error ({numbers})"
    if row["answer"] != UNDECIDED:
        rule = f"{row['because']}: " if row["because"] else ""
        return f"{rule}the answer holds after the correction for {tests} tests ({numbers})"
    return f"the row alone {row['answer_alone']} the claim, but not after the correction for {tests} tests ({numbers})"
