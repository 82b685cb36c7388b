"""The tables that the page prints: coverage, failures, method; each with the command that gives it."""

from typing import Any, NamedTuple

import polars as pl

from pipeline.lake import Lake, lake_status
from pipeline.lake.reader import LakeReader
from pipeline.lake.saved_queries import all_saved_queries

METHOD_SQL = """SELECT corpus, left(corpus_sha256, 12) AS sha256, recipe, left(recipe_fingerprint, 12) AS fingerprint,
  max(context_tokens) AS context_tokens, max(n_contexts) AS contexts, min(n_points) AS fewest_points,
  max(n_points) AS most_points, string_agg(DISTINCT dtype) AS dtype, string_agg(DISTINCT device) AS device,
  max(algorithm) AS algorithm
FROM layers GROUP BY ALL ORDER BY ALL"""
FAILURE_COLUMNS = ("model", "revision", "corpus", "recipe", "class", "message", "quarantined", "command")


class ReportTable(NamedTuple):
    """Rows for people, and the command that gives them."""

    name: str
    caption: str
    command: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]

    def filter_rows(self, **values: str) -> "ReportTable":
        """The rows that have these values, in those of the columns that the table has."""
        asked = {self.columns.index(name): value for name, value in values.items() if name in self.columns}
        rows = (row for row in self.rows if all(row[place] == value for place, value in asked.items()))
        return self._replace(rows=tuple(rows))


def make_report_table(name: str, caption: str, command: str, frame: pl.DataFrame) -> ReportTable:
    return ReportTable(name, caption, command, tuple(frame.columns), tuple(frame.iter_rows()))


def coverage_table(reader: LakeReader, models: list[str]) -> ReportTable:
    """What is measured."""
    found = reader.query_frame(all_saved_queries()["coverage"].sql).filter(pl.col("model").is_in(models))
    shown = found.with_columns(pl.col("last_written").dt.strftime("%Y-%m-%d %H:%M UTC"))
    return make_report_table("coverage", "What is measured.", "shapelake query @coverage --lake {lake}", shown)


def failure_table(reader: LakeReader, models: list[str]) -> ReportTable:
    """What failed and is not measured, with its cause and the command that shows it again."""
    failed = lake_status(Lake(reader.uri))["failures"]
    found = [one | dict(zip(FAILURE_COLUMNS, one["label"].rsplit("@", 1), strict=False)) for one in failed]
    found = [one for one in found if one["model"] in models]
    listed = tuple(tuple(failure[name] for name in FAILURE_COLUMNS) for failure in found)
    caption = "What failed and is not measured." if listed else "Nothing failed that is not measured since."
    return ReportTable("failures", caption, "shapelake status --failed --lake {lake}", FAILURE_COLUMNS, listed)


def method_table(reader: LakeReader) -> ReportTable:
    """How the numbers were made."""
    caption = "What was read, by which recipe, with how many points."
    return make_report_table(
        "method", caption, f'shapelake query "{METHOD_SQL}" --lake {{lake}}', reader.query_frame(METHOD_SQL)
    )
