"""Reader of a lake with SQL or as data frames, through the views `layers`, `checkpoints` and `cells`."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import polars as pl
import pyarrow as pa

from pipeline.errors import UsageError
from pipeline.lake import views
from pipeline.lake.cell_index import load_cell_index
from pipeline.lake.lake import Lake
from pipeline.lake.records import Audit, Audited, Label, ResolvedLabel
from pipeline.lake.scan import polars_schema

SELECT_HINT = "Use a SELECT over the views layers, checkpoints or cells"
# The sandbox lets SQL read and write files in DuckDB's temp_directory (default: `.tmp` in the working directory).
# Without one, a query that needs more than DuckDB's memory limit (80 % of the machine) fails instead of spilling.
NO_TEMP_DIRECTORY = ""
SANDBOX_SETTINGS = ("TimeZone = 'UTC'", "python_enable_replacements = false", "enable_external_access = false")


QUERY_TYPES = frozenset({"SELECT", "EXPLAIN", "PRAGMA", "CALL", "MULTI"})
"""DuckDB statement types that return a result and change nothing; DuckDB reports PIVOT as MULTI."""


def require_single_query(text: str) -> str:
    """Return `text` if it is one query.

    Raises:
        UsageError: the SQL is invalid, has several statements, or changes something, such as DROP.
    """
    with _as_usage_error(text):
        types = [statement.type.name for statement in duckdb.extract_statements(text)]
    if len(types) != 1:
        found = f"{len(types)} statements, of which only one result could be shown" if types else "no statement"
        raise UsageError(f"query {text.strip()!r}", found, f"{SELECT_HINT}, one per command")
    if types[0] not in QUERY_TYPES:
        raise UsageError(f"query {text.strip()!r}", f"{types[0]} is not a query", SELECT_HINT)
    return text


class LakeReader:
    """Read-only view of a lake, in its state when the reader was created.

    Its views are duckdb relations (`.df()`, `.pl()`, `.arrow()`, `.filter(...)`):

    - `layers`: one row per layer of each cell, for every label of its checkpoint. Cells with a tombstone are left out,
      and so are measurements that the lake also has with a newer algorithm version.
    - `checkpoints`: one row per label and content, and one per audited revision that was never measured.
    - `cells`: one row per committed cell; `hidden` is true if the cell has a tombstone.
    """

    def __init__(self, uri: str | Path) -> None:
        lake = Lake(uri)
        self.uri = lake.uri
        rows, cells, self._row_files = load_cell_index(lake)
        hidden = pl.DataFrame({"cell_id": sorted(lake.quarantined_cell_ids())}, {"cell_id": pl.String})
        self._tables: dict[str, pa.Table | pl.LazyFrame] = {
            "measured": rows,
            "committed": cells.to_arrow(),
            "labels": _label_frame(lake.labels()).to_arrow(),
            "audited": _audit_frame(lake.audits()).to_arrow(),
            "tombstones": hidden.to_arrow(),
        }
        visible = self._visible_cells()
        shared = visible.filter(~pl.col("own"))["cell_id"].unique().implode()
        self._tables |= {"visible": visible.to_arrow(), "shared": rows.filter(pl.col("cell_id").is_in(shared))}

    def layers(self) -> duckdb.DuckDBPyRelation:
        return self.sql("FROM layers")

    def checkpoints(self) -> duckdb.DuckDBPyRelation:
        return self.sql("FROM checkpoints")

    def cells(self) -> duckdb.DuckDBPyRelation:
        return self.sql("FROM cells")

    def sql(self, text: str) -> duckdb.DuckDBPyRelation:
        """Return the result of a query over the three views; it can read nothing else and write nothing.

        The result is computed when it is fetched; an error at that point is a duckdb.Error.

        Raises:
            UsageError: the query is not valid, or the statement has no result (such as CREATE).
        """
        with _as_usage_error(text):
            if (result := self._connect().sql(text)) is not None:
                return result
        raise UsageError(f"query {text.strip()!r}", "the statement has no result", SELECT_HINT)

    def query_frame(self, text: str) -> pl.DataFrame:
        """Return the computed result of `sql`; raise UsageError for any error in the query or its computation."""
        with _as_usage_error(text):
            return self.sql(text).pl()

    def _connect(self) -> duckdb.DuckDBPyConnection:
        """Open a separate sandboxed database, so that queries affect neither each other nor anything outside."""
        database = self._database()
        for view in (views.CREATE_LAYERS_VIEW, views.CREATE_CELLS_VIEW, views.CREATE_CHECKPOINTS_VIEW):
            database.execute(view)
        for setting in (*SANDBOX_SETTINGS, "lock_configuration = true"):
            database.execute(f"SET {setting}")
        return database

    def _visible_cells(self) -> pl.DataFrame:
        """Select the newest algorithm version of each measurement; return one row per cell and label."""
        labelled = self._database().sql(views.SELECT_LABELLED_CELLS).pl()
        newest = pl.col("algorithm").max().over(views.MEASUREMENT_COLUMNS)
        visible = labelled.filter(pl.col("algorithm").eq_missing(newest))
        return visible.select("cell_id", "own", *views.LABEL_DECIDED_COLUMNS)

    def _database(self) -> duckdb.DuckDBPyConnection:
        database = duckdb.connect(config={"temp_directory": NO_TEMP_DIRECTORY})
        for name, frame in self._tables.items():
            database.register(name, frame)
        return database


@contextmanager
def _as_usage_error(text: str) -> Iterator[None]:
    try:
        yield
    except duckdb.Error as error:
        found = " ".join(str(error).split()).rstrip(".")
        raise UsageError(f"query {text.strip()!r}", found, SELECT_HINT) from error


def _label_frame(labels: list[ResolvedLabel]) -> pl.DataFrame:
    types = polars_schema()
    names = (*views.LABEL_DECIDED_COLUMNS, *views.DIGEST_COLUMNS)
    label_types = {name: types[name] for name in names if name in Label.model_fields} | {"content": pl.String()}
    resolved_types = {name: types[name] for name in views.UNLABELLED_DEFAULTS} | {"first_seen": types["written_at"]}
    columns = {name: [getattr(resolved.label, name) for resolved in labels] for name in label_types}
    columns |= {name: [getattr(resolved, name) for resolved in labels] for name in resolved_types}
    return pl.DataFrame(columns, schema=label_types | resolved_types).with_columns(_kinds(labels))


def _kinds(labels: list[ResolvedLabel]) -> pl.Series:
    """Build the column `kinds` from its few distinct lists, because polars converts Python lists slowly."""
    indices = {kinds: i for i, kinds in enumerate(dict.fromkeys(resolved.label.kinds for resolved in labels))}
    distinct = pl.Series("kinds", [list(kinds) for kinds in indices], dtype=pl.List(pl.String))
    return distinct.gather([indices[resolved.label.kinds] for resolved in labels])


def _audit_frame(audits: list[Audit]) -> pl.DataFrame:
    types = polars_schema() | {"state": pl.String(), "findings": pl.List(pl.String)}
    schema = {"model": pl.String(), "family": pl.String()} | {name: types[name] for name in Audited.model_fields}
    rows = [[audit.model, audit.family, *seen.model_dump().values()] for audit in audits for seen in audit.revisions]
    return pl.DataFrame(rows, schema=schema, orient="row")
