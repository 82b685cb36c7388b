"""Tables of the page: coverage, failures and method, each with the command that prints its rows."""

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
    """Rows of a printed table, and the command that prints them in a terminal."""

    name: str
    caption: str
    command: str
    """Command with `{lake}` in place of the lake's URI; empty in tables of `shapelake compare`."""
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]

    def filter_rows(self, **values: str) -> "ReportTable":
        """Select the rows that have these values, given as COLUMN=VALUE; columns that the table lacks are ignored."""
        wanted = {self.columns.index(name): value for name, value in values.items() if name in self.columns}
        rows = (row for row in self.rows if all(row[index] == value for index, value in wanted.items()))
        return self._replace(rows=tuple(rows))


def make_report_table(name: str, caption: str, command: str, frame: pl.DataFrame) -> ReportTable:
    return ReportTable(name, caption, command, tuple(frame.columns), tuple(frame.iter_rows()))


def coverage_table(reader: LakeReader, models: list[str]) -> ReportTable:
    """Return the table of the measured labels, steps and rows per model, corpus and recipe."""
    coverage = reader.query_frame(all_saved_queries()["coverage"].sql).filter(pl.col("model").is_in(models))
    shown = coverage.with_columns(pl.col("last_written").dt.strftime("%Y-%m-%d %H:%M UTC"))
    return make_report_table("coverage", "Measurements in the lake.", "shapelake query @coverage --lake {lake}", shown)


def failure_table(reader: LakeReader, models: list[str]) -> ReportTable:
    """Return the table of the failed cells that are still not measured, each with its error and a retry command."""
    failed = lake_status(Lake(reader.uri))["failures"]
    rows = [cell | dict(zip(FAILURE_COLUMNS, cell["label"].rsplit("@", 1), strict=False)) for cell in failed]
    listed = tuple(tuple(row[name] for name in FAILURE_COLUMNS) for row in rows if row["model"] in models)
    caption = "Failed cells." if listed else "No failed cells."
    return ReportTable("failures", caption, "shapelake status --failed --lake {lake}", FAILURE_COLUMNS, listed)


def method_table(reader: LakeReader) -> ReportTable:
    """Return the table of corpora and recipes, with their numbers of points, dtypes and devices."""
    caption, command = "Corpora, recipes and numbers of points.", f'shapelake query "{METHOD_SQL}" --lake {{lake}}'
    return make_report_table("method", caption, command, reader.query_frame(METHOD_SQL))
