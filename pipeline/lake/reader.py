"""Reading a lake with SQL, or as frames: the views `layers`, `checkpoints` and `cells`."""

from pathlib import Path

import duckdb
import polars as pl

from pipeline.columns import names
from pipeline.errors import UsageError
from pipeline.lake.lake import Lake
from pipeline.lake.records import Named
from pipeline.lake.scan import scan, schema

DIGESTS = ("weights_digest", "config_digest", "tokenizer_digest")
OF_LABEL = (
    *("model", "family", "revision", "commit_sha", "step", "tokens_seen", "tokens_source", "stage", "run"),
    *("duplicate_of", "superseded"),
)
OF_CHECKPOINT = names("model", "checkpoint")
OF_CELL = tuple(
    name
    for name in (*names("keys", "model", "checkpoint", "text"), *("device", "run_id", "written_at", "attempt"))
    if name not in ("duplicate_of", "superseded")
)
MEASUREMENT = (
    *("model", "revision", "weights_digest", "tokenizer_digest", "corpus", "corpus_sha256"),
    *("kind", "recipe", "recipe_fingerprint"),
)
"""Cells equal in these are versions of one measurement; the newest algorithm counts."""


class Reader:
    """A lake as it was when the reader was made.

    `layers`: one row per (label, layer of a cell), of each measurement the newest algorithm, without the cells that
    have a tombstone. `checkpoints`: one row per label and content. `cells`: one row per committed cell.
    Each is a duckdb relation: `.df()`, `.pl()`, `.arrow()`, `.filter(...)`.
    """

    def __init__(self, uri: str | Path) -> None:
        lake = Lake(uri)
        self.uri = lake.uri
        self._measured = scan(lake.store.path(key) for key in lake.cells().values())
        self._labels = _label_frame(lake.labels())
        self._tombstones = pl.DataFrame({"cell_id": sorted(lake.quarantined())}, schema={"cell_id": pl.String})

    def layers(self) -> duckdb.DuckDBPyRelation:
        return self.sql("FROM layers")

    def checkpoints(self) -> duckdb.DuckDBPyRelation:
        return self.sql("FROM checkpoints")

    def cells(self) -> duckdb.DuckDBPyRelation:
        return self.sql("FROM cells")

    def sql(self, text: str) -> duckdb.DuckDBPyRelation:
        """The result of a query over the three views, which can read nothing else and write nothing at all."""
        try:
            result = self._connect().sql(text)
        except duckdb.Error as error:
            found = str(error).splitlines()[0]
            raise UsageError(
                f"query {text.strip()!r}", found, "Ask the views layers, checkpoints and cells with a SELECT"
            ) from error
        if result is None:
            raise UsageError(f"query {text.strip()!r}", "it returns no rows", "Ask with a SELECT")
        return result

    def _connect(self) -> duckdb.DuckDBPyConnection:
        """A database of its own for each query: none can disturb another, and none can reach outside."""
        database = duckdb.connect()
        database.register("measured", self._measured)
        database.register("labels", self._labels)
        database.register("tombstones", self._tombstones)
        for view in (LAYERS, CELLS, CHECKPOINTS):
            database.execute(view)
        for setting in ("TimeZone = 'UTC'", "python_enable_replacements = false", "enable_external_access = false"):
            database.execute(f"SET {setting}")
        database.execute("SET lock_configuration = true")
        return database


def _label_frame(labels: list[Named]) -> pl.DataFrame:
    types = schema()
    columns = {name: types[name] for name in (*OF_LABEL, *DIGESTS)}
    columns |= {"content": pl.String(), "kinds": pl.List(pl.String), "first_seen": types["written_at"]}
    rows = [
        {**named.label.model_dump(), **{name: getattr(named, name) for name in Named._fields[1:]}} for named in labels
    ]
    return pl.DataFrame([[row[name] for name in columns] for row in rows], schema=columns, orient="row")


def _layer_column(name: str) -> str:
    if name not in OF_LABEL:
        return f"r.{name}"
    own = "false" if name == "superseded" else "NULL" if name == "duplicate_of" else f"r.{name}"
    return f"CASE WHEN l.content IS NULL THEN {own} ELSE l.{name} END AS {name}"


# A cell whose label record is lost is its own label.
LAYERS = f"""
CREATE VIEW layers AS
FROM (
    SELECT {", ".join(map(_layer_column, names()))}
    FROM measured r LEFT JOIN labels l USING ({", ".join(DIGESTS)})
    WHERE r.cell_id NOT IN (SELECT cell_id FROM tombstones)
)
QUALIFY algorithm IS NOT DISTINCT FROM max(algorithm) OVER (PARTITION BY {", ".join(MEASUREMENT)})
"""

CELLS = f"""
CREATE VIEW cells AS
SELECT {", ".join("cell_id" if name == "cell_id" else f"any_value({name}) AS {name}" for name in OF_CELL)},
    count(*) AS rows,
    CASE max(CASE status WHEN 'ok' THEN 0 WHEN 'degenerate' THEN 1 ELSE 2 END)
        WHEN 0 THEN 'ok' WHEN 1 THEN 'degenerate' ELSE 'nonfinite' END AS status,
    max(load_s) AS load_s, max(forward_s) AS forward_s, sum(knn_s) AS knn_s, sum(spectrum_s) AS spectrum_s,
    max(total_s) AS total_s, max(peak_device_mib) AS peak_device_mib, max(peak_host_mib) AS peak_host_mib,
    max(download_bytes) AS download_bytes,
    cell_id IN (SELECT cell_id FROM tombstones) AS hidden
FROM measured GROUP BY cell_id
"""

CHECKPOINTS = f"""
CREATE VIEW checkpoints AS
WITH of_cells AS (
    SELECT {", ".join(DIGESTS)}, list_sort(list(DISTINCT kind)) AS kinds, min(written_at) AS first_seen,
        {", ".join(f"any_value({name}) AS {name}" for name in OF_CHECKPOINT if name not in (*DIGESTS, "duplicate_of", "superseded"))}
    FROM cells GROUP BY ALL
)
SELECT 1
"""
