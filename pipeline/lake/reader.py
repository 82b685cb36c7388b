"""Reading a lake with SQL, or as frames: the views `layers`, `checkpoints` and `cells`."""

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

SANDBOX_SETTINGS = ("TimeZone = 'UTC'", "python_enable_replacements = false", "enable_external_access = false")


class LakeReader:
    """A lake as it was when the reader was made.

    `layers`: one row per (label, layer of a cell), of each measurement the newest algorithm, without the cells that
    have a tombstone. `checkpoints`: one row per label and content. `cells`: one row per committed cell, `hidden`
    where it has a tombstone. Each is a duckdb relation: `.df()`, `.pl()`, `.arrow()`, `.filter(...)`.
    """

    def __init__(self, uri: str | Path) -> None:
        lake = Lake(uri)
        self.uri = lake.uri
        rows, cells = load_cell_index(lake)
        self._tables: dict[str, pa.Table | pl.LazyFrame] = {
            "measured": rows,
            "committed": cells.to_arrow(),
            "labels": _label_frame(lake.labels()).to_arrow(),
            "audited": _audit_frame(lake.audits()).to_arrow(),
            "tombstones": pl.DataFrame(
                {"cell_id": sorted(lake.quarantined_cell_ids())}, {"cell_id": pl.String}
            ).to_arrow(),
        }
        shown = self._visible_cells()
        lent = shown.filter(~pl.col("own"))["cell_id"].unique().implode()
        self._tables |= {"shown": shown.to_arrow(), "borrowed": rows.filter(pl.col("cell_id").is_in(lent))}

    def layers(self) -> duckdb.DuckDBPyRelation:
        return self.sql("FROM layers")

    def checkpoints(self) -> duckdb.DuckDBPyRelation:
        return self.sql("FROM checkpoints")

    def cells(self) -> duckdb.DuckDBPyRelation:
        return self.sql("FROM cells")

    def sql(self, text: str) -> duckdb.DuckDBPyRelation:
        """The result of a query over the three views, which can read nothing else and write nothing at all.

        It is computed when it is fetched; what goes wrong then is a duckdb.Error.
        """
        with _as_usage_error(text):
            if (result := self._connect().sql(text)) is not None:
                return result
        raise UsageError(f"query {text.strip()!r}", "it returns no rows", "Ask with a SELECT")

    def query_frame(self, text: str) -> pl.DataFrame:
        """The result of `sql`, computed now: everything that can go wrong is an error in two lines."""
        with _as_usage_error(text):
            return self.sql(text).pl()

    def _connect(self) -> duckdb.DuckDBPyConnection:
        """A database of its own for each query: none disturbs another, and none reaches outside."""
        database = self._database()
        for view in (views.CREATE_LAYERS_VIEW, views.CREATE_CELLS_VIEW, views.CREATE_CHECKPOINTS_VIEW):
            database.execute(view)
        for setting in (*SANDBOX_SETTINGS, "lock_configuration = true"):
            database.execute(f"SET {setting}")
        return database

    def _visible_cells(self) -> pl.DataFrame:
        """Which cells are shown, and under which label: of each measurement the newest algorithm."""
        each = self._database().sql(views.SELECT_LABELLED_CELLS).pl()
        newest = pl.col("algorithm").max().over(views.MEASUREMENT_COLUMNS)
        return each.filter(pl.col("algorithm").eq_missing(newest)).select(
            "cell_id", "own", *views.LABEL_DECIDED_COLUMNS
        )

    def _database(self) -> duckdb.DuckDBPyConnection:
        database = duckdb.connect()
        for name, frame in self._tables.items():
            database.register(name, frame)
        return database


@contextmanager
def _as_usage_error(text: str) -> Iterator[None]:
    try:
        yield
    except duckdb.Error as error:
        found = " ".join(str(error).split()).rstrip(".")
        asked = f"query {text.strip()!r}"
        raise UsageError(asked, found, "Ask the views layers, checkpoints or cells with a SELECT") from error


def _label_frame(labels: list[ResolvedLabel]) -> pl.DataFrame:
    types = polars_schema()
    said = {
        name: types[name]
        for name in (*views.LABEL_DECIDED_COLUMNS, *views.DIGEST_COLUMNS)
        if name in Label.model_fields
    }
    said |= {"content": pl.String()}
    found = {name: types[name] for name in views.UNLABELLED_DEFAULTS} | {"first_seen": types["written_at"]}
    columns = {name: [getattr(named.label, name) for named in labels] for name in said}
    columns |= {name: [getattr(named, name) for named in labels] for name in found}
    return pl.DataFrame(columns, schema=said | found).with_columns(_kinds(labels))


def _kinds(labels: list[ResolvedLabel]) -> pl.Series:
    """Polars makes lists slowly from Python's, and few of them differ."""
    places = {kinds: place for place, kinds in enumerate(dict.fromkeys(named.label.kinds for named in labels))}
    distinct = pl.Series("kinds", [list(kinds) for kinds in places], dtype=pl.List(pl.String))
    return distinct.gather([places[named.label.kinds] for named in labels])


def _audit_frame(audits: list[Audit]) -> pl.DataFrame:
    types = polars_schema() | {"state": pl.String(), "findings": pl.List(pl.String)}
    own = {name: types[name] for name in Audited.model_fields}
    rows = [[audit.model, audit.family, *one.model_dump().values()] for audit in audits for one in audit.revisions]
    return pl.DataFrame(rows, schema={"model": pl.String(), "family": pl.String(), **own}, orient="row")
