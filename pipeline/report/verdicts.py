"""The sentences under the titles, and the table of all verdicts: the findings, named as the page names things."""

from typing import NamedTuple

import polars as pl

from pipeline.analysis import FINDINGS
from pipeline.analysis.frames import HISTORY_COLUMNS
from pipeline.report.tables import ReportTable, make_report_table

TRUST_WORST_FIRST = ("doubtful", "care", "sound")
"""Of trust, from the worst."""


class VerdictLine(NamedTuple):
    """What a finding says of one history on one text; null where it is about more than one."""

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

    def for_history(self, history: str) -> "Verdicts":
        lines = tuple(line for line in self.lines if line.history in (history, None))
        return Verdicts(
            lines, *(table.filter_rows(history=history) for table in (self.summary, self.agreement, self.trust))
        )


def collect_verdicts(frame: pl.DataFrame) -> Verdicts:
    """Every finding about the chosen rows."""
    names = frame.select(*HISTORY_COLUMNS, "history", "text").unique().sort(HISTORY_COLUMNS)
    found = {name: _named(finding.answer(frame), names) for name, finding in FINDINGS.items()}
    lines = [
        VerdictLine(name, history, text, verdict, sentence)
        for name, part in found.items()
        if name not in TABLE_FINDINGS
        for history, text, verdict, sentence in part.filter(_is_model_level(part)).select(_LINE_COLUMNS).iter_rows()
    ]
    return Verdicts(tuple(lines), _summary(found, names), _agreement(found["agreement"]), _trust(found["trust"]))


TABLE_FINDINGS = ("agreement", "estimators", "trust")
"""Findings of many rows, which are tables or marks and no sentences."""
_LINE_COLUMNS = ("history", "text", "verdict", "because")


def _is_model_level(part: pl.DataFrame) -> pl.Expr:
    """What is said of a model, not of one of its layers."""
    return pl.col("layer").is_null() if "layer" in part.columns else pl.lit(True)


def _named(part: pl.DataFrame, names: pl.DataFrame) -> pl.DataFrame:
    """With `history` and `text`; of a history that is not on the page nothing."""
    on = [name for name in HISTORY_COLUMNS if name in part.columns]
    if "kind" not in on:  # a pair of an encoder and a decoder: no one history
        texts = names.select("corpus", "recipe", "text").unique()
        part = part.join(names.select("model").unique(), on="model", how="semi")
        return part.join(texts, on=["corpus", "recipe"]).with_columns(history=pl.lit(None, pl.String))
    return part.join(names, on=on, nulls_equal=True)


def _summary(found: dict[str, pl.DataFrame], names: pl.DataFrame) -> ReportTable:
    on = ["history", "text"]
    table_ = names.select(on).unique()
    of_model = found["phases"].filter(pl.col("layer").is_null())
    domes = found["nulls"].filter(conclusion="dome")
    parts = {
        "dome": found["dome"].select(*on, dome="verdict", without_sinks="no_sink_verdict"),
        "convergence": found["convergence"].select(*on, profile="verdict"),
        "phases": of_model.select(*on, dimension="verdict"),
        "sinks": found["sinks"].select(*on, sinks="verdict"),
        "nulls": domes.group_by(on).agg(random_tokens=pl.col("verdict").first()),
        "trust": found["trust"].group_by(on).agg(trust=pl.col("verdict").sort_by(_trust_rank()).first()),
    }
    for part in parts.values():
        table_ = table_.join(part, on=on, how="left")
    caption = "Every verdict, by model and text. A blank one could not be asked."
    spoken = pl.col(pl.String).exclude(on).str.replace_all("_", " ")
    return make_report_table(
        "summary", caption, "shapelake findings --lake {lake}", table_.sort(on).with_columns(spoken)
    )


def _agreement(found: pl.DataFrame) -> ReportTable:
    kept = found.select("history", "text", "estimator", "other", "verdict", "rows", "same_verdict", "same_peak")
    caption = "Do the estimators of dimension agree: of so many layers the share with one verdict, and with one peak."
    return make_report_table("agreement", caption, "shapelake findings agreement --lake {lake}", kept)


def _trust(found: pl.DataFrame) -> ReportTable:
    kept = found.select("history", "text", "about", "verdict", "share", "rows", "because")
    kept = kept.sort(_trust_rank(), "history", "text", "about")
    caption = "What not to believe: the share of rows with that verdict, and the commonest reason."
    return make_report_table("trust", caption, "shapelake findings trust --lake {lake}", kept)


def _trust_rank() -> pl.Expr:
    return pl.col("verdict").replace_strict(
        {word: place for place, word in enumerate(TRUST_WORST_FIRST)}, return_dtype=pl.Int8
    )
