"""Findings for the page: as sentences at the charts and as tables, with the display names of the page."""

from typing import NamedTuple

import polars as pl

from pipeline.analysis import FINDINGS, combine_batches, compute_batch
from pipeline.analysis.claim_registry import load_claims
from pipeline.analysis.frames import HISTORY_COLUMNS
from pipeline.analysis.published_claims import describe_correction, judge_claims
from pipeline.analysis.trust import WORST_FIRST
from pipeline.report.tables import ReportTable, make_report_table


class VerdictLine(NamedTuple):
    """Sentence of a finding about one history on one text; `history` is None for a pair of models."""

    finding: str
    history: str | None
    text: str | None
    verdict: str
    sentence: str


class Verdicts(NamedTuple):
    lines: tuple[VerdictLine, ...]
    summary: ReportTable
    agreement: ReportTable
    trust: ReportTable
    claims: ReportTable

    def for_history(self, history: str) -> "Verdicts":
        lines = tuple(line for line in self.lines if line.history in (history, None))
        tables = self.summary, self.agreement, self.trust, self.claims
        return Verdicts(lines, *(table.filter_rows(history=history) for table in tables))


def collect_verdicts(frame: pl.DataFrame) -> Verdicts:
    """Compute every finding on the rows of `load_chart_rows`, and build the verdicts from them."""
    return name_verdicts(combine_batches([compute_batch(list(FINDINGS), frame)]), select_names(frame))


def select_names(frame: pl.DataFrame) -> pl.DataFrame:
    """Select the display names of each history on each text, and the recipe's number of groups."""
    return frame.select(*HISTORY_COLUMNS, "history", "text", "groups").unique().sort(HISTORY_COLUMNS)


def name_verdicts(found: dict[str, pl.DataFrame], names: pl.DataFrame) -> Verdicts:
    """Build the verdicts from the frame of each finding, by its name, and from the display names of `select_names`."""
    claims = _claims(found, names)
    names = names.drop("groups")
    findings = {name: _add_names(part, names) for name, part in found.items()}
    lines = [
        VerdictLine(name, history, text, verdict, sentence)
        for name, part in findings.items()
        if name not in TABLE_FINDINGS
        for history, text, verdict, sentence in part.filter(_is_model_level(part)).select(_LINE_COLUMNS).iter_rows()
    ]
    summary = _summary(findings, names)
    return Verdicts(tuple(lines), summary, _agreement(findings["agreement"]), _trust(findings["trust"]), claims)


TABLE_FINDINGS = ("agreement", "estimators", "trust")
"""Findings with too many rows for sentences; the page shows them as tables or as marks in charts."""
_LINE_COLUMNS = ("history", "text", "verdict", "because")


def _is_model_level(part: pl.DataFrame) -> pl.Expr:
    """Return the condition that a row is about a whole model instead of one of its layers."""
    return pl.col("layer").is_null() if "layer" in part.columns else pl.lit(True)


def _add_names(part: pl.DataFrame, names: pl.DataFrame) -> pl.DataFrame:
    """Add the display names `history` and `text`; drop the rows of histories that are not in `names`."""
    on = [name for name in HISTORY_COLUMNS if name in part.columns]
    if "kind" not in on:  # a comparison of models has no single history
        texts = names.select("corpus", "recipe", "text").unique()
        if "model" in on:
            part = part.join(names.select("model").unique(), on="model", how="semi")
        return part.join(texts, on=["corpus", "recipe"]).with_columns(history=pl.lit(None, pl.String))
    return part.join(names, on=on, nulls_equal=True)


def _summary(findings: dict[str, pl.DataFrame], names: pl.DataFrame) -> ReportTable:
    on = ["history", "text"]
    table = names.select(on).unique()
    phases = findings["phases"].filter(pl.col("layer").is_null())
    domes = findings["nulls"].filter(conclusion="dome")
    parts = {
        "dome": findings["dome"].select(*on, dome="verdict", without_sinks="no_sink_verdict", dome_claim="claim"),
        "convergence": findings["convergence"].select(*on, profile="verdict"),
        "phases": phases.select(*on, dimension="verdict", dimension_claim="claim"),
        "depth": findings["depth"].select(*on, dimension_over_depth="verdict"),
        "sinks": findings["sinks"].select(*on, sinks="verdict"),
        "nulls": domes.group_by(on).agg(random_tokens=pl.col("verdict").first()),
        "trust": findings["trust"].group_by(on).agg(trust=pl.col("verdict").sort_by(_trust_rank()).first()),
    }
    for part in parts.values():
        table = table.join(part, on=on, how="left")
    caption = "Verdicts by model and text. A blank cell has no verdict."
    shown = table.sort(on).with_columns(pl.col(pl.String).exclude(on).str.replace_all("_", " "))
    shown = shown.select(*on, *(column for column in shown.drop(on) if column.null_count() < shown.height))
    return make_report_table("summary", caption, "shapelake findings --lake {lake}", shown)


def _agreement(found: pl.DataFrame) -> ReportTable:
    kept = found.select("history", "text", "estimator", "other", "verdict", "rows", "same_verdict", "same_peak")
    caption = "Agreement of the scales of dimension: share of layers with the same verdict, and with overlapping peaks."
    return make_report_table("agreement", caption, "shapelake findings agreement --lake {lake}", kept)


def _claims(found: dict[str, pl.DataFrame], names: pl.DataFrame) -> ReportTable:
    """Return the table of answers to published claims; `history` is null in answers that compare models."""
    registry = load_claims()
    groups = dict(names.select("recipe", "groups").drop_nulls().unique("recipe").iter_rows())
    answers = judge_claims(found, groups)
    named = answers.join(names.drop("groups"), on=HISTORY_COLUMNS, how="left", nulls_equal=True)
    text = pl.concat_str(pl.coalesce("text", "corpus"), "null", separator=" against ", ignore_nulls=True)
    sentence = {name: f"{claim.sentence} ({claim.short_reference})" for name, claim in registry.items()}
    level = (100 * pl.col("level")).round().cast(pl.Int64)
    limits = pl.format(" ({} %: {} to {})", level, *(pl.col(name).round_sig_figs(3) for name in ("low", "high")))
    shown = named.select(
        claim=pl.col("claim").replace_strict(sentence, return_dtype=pl.String),
        answer="answer",
        effect=pl.col("effect").round_sig_figs(3).cast(pl.String) + limits.fill_null(""),
        corrected_p="p_holm",
        history="history",
        text=text,
        because="because",
    )
    caption = f"Published claims about these models. {describe_correction(answers)}"
    return make_report_table("claims", caption, "shapelake claims --lake {lake}", shown)


def _trust(found: pl.DataFrame) -> ReportTable:
    kept = found.select("history", "text", "about", "verdict", "share", "rows", "because")
    kept = kept.sort(_trust_rank(), "history", "text", "about")
    caption = "Reliability: share of rows with the verdict, and the most frequent reason."
    return make_report_table("trust", caption, "shapelake findings trust --lake {lake}", kept)


def _trust_rank() -> pl.Expr:
    ranks = {word: rank for rank, word in enumerate(WORST_FIRST)}
    return pl.col("verdict").replace_strict(ranks, return_dtype=pl.Int8)
