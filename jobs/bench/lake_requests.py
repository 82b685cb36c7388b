"""Number of requests that readers of a compacted lake make to a store in memory, which has a synthetic snapshot."""

from collections import Counter
from collections.abc import Callable, Iterator
from io import BytesIO
from typing import Any
from unittest.mock import patch

import polars as pl
from obstore.store import MemoryStore

from jobs.bench.cell_files import LAYERS, checkpoint, fill_template
from jobs.bench.comparison import Comparison, Subject, at_most
from jobs.bench.scale import Scale
from pipeline.lake import Lake, lake_status, object_store, open_lake, snapshot
from pipeline.lake.cell_chunks import aggregate_cells
from pipeline.lake.index_records import record_in_index
from pipeline.lake.layout import cell_key
from pipeline.lake.manifest import CELL_FILE, LABEL_FILE, LATEST_KEY, Part, Snapshot, bytes_digest
from pipeline.lake.records import utc_now
from pipeline.lake.scan import polars_schema, scan_unchecked
from pipeline.lake.snapshot_parts import PART_CELLS
from pipeline.strict_model import canonical_json, digest_json

URI = "s3://bench/lake"
KEYS_PER_LIST = 1000
"""Largest number of names that an object store returns per request."""
BASE_REQUESTS, NEW_CELLS_PER_REQUEST = 50, 1000
MODELS = 50
FOLDER = "snapshots/v3/20260102T000000.000000Z-00000000"


class CountingStore:
    """Object store in memory that counts requests; a listing counts as one request per KEYS_PER_LIST names."""

    def __init__(self) -> None:
        self._objects = MemoryStore()
        self.requests = Counter[str]()

    def list(self, prefix: str | None = None, **options: Any) -> Iterator[Any]:
        found = [entry for chunk in self._objects.list(prefix, **options) for entry in chunk]
        self.requests["list"] += max(1, -(-len(found) // KEYS_PER_LIST))
        return iter([found])

    def __getattr__(self, name: str) -> Callable[..., Any]:
        request = getattr(self._objects, name)

        def counted(*args: Any, **options: Any) -> Any:
            self.requests[name] += 1
            return request(*args, **options)

        return counted


def request_rows(scale: Scale) -> Iterator[Comparison]:
    """Count the requests of a query, of status, and of the reads that a plan makes.

    The reads of a plan are counted again after cells have been added that the snapshot lacks.
    """
    store = CountingStore()
    with patch.object(object_store, "from_url", lambda *_args, **_options: store):
        lake = Lake(URI)
        _put_snapshot(lake, scale.snapshot_cells)
        yield _count(store, "count query", _query, scale.snapshot_cells, 0)
        yield _count(store, "status", lambda: lake_status(Lake(URI)), scale.snapshot_cells, 0)
        yield _count(store, "reads of a plan", _read_as_a_plan, scale.snapshot_cells, 0)
        for number in range(scale.new_cells):
            record_in_index(lake.store, digest_json(["new", number]), "lab--model-0000")
        case = f"reads of a plan, {scale.new_cells:,} new cells"
        yield _count(store, case, _read_as_a_plan, scale.snapshot_cells, scale.new_cells)


def _count(store: CountingStore, work: str, step: Callable[[], object], cells: int, new: int) -> Comparison:
    store.requests.clear()
    step()
    limit = float(BASE_REQUESTS + new / NEW_CELLS_PER_REQUEST)
    made = [float(store.requests.total())]
    note = ", ".join(f"{number} {name}" for name, number in store.requests.items())
    return Comparison(Subject("lake", work, cells), "limit", "requests", made, [limit], at_most(1.0), note)


def _query() -> None:
    open_lake(URI).query_frame("SELECT count(*) FROM layers")


def _read_as_a_plan() -> None:
    """Read from the lake what `make_plan` reads for a finished sweep."""
    lake = Lake(URI)
    for read in (lake.labels, lake.cell_files, lake.failure_counts, lake.quarantined_cell_ids):
        read()


def _put_snapshot(lake: Lake, cells: int) -> None:
    """Write a snapshot whose index has this many cells, in full parts; each part file holds the rows of one cell."""
    row = aggregate_cells(
        scan_unchecked([fill_template(checkpoint(0, MODELS), "0" * 32, "text:0", "quick@1")])
    ).collect()
    numbers = pl.DataFrame({"number": range(cells)})
    index = numbers.join(row.drop("layers"), how="cross").with_columns(
        cell_id=pl.col("number").map_elements(lambda number: f"{number:032x}", pl.String),
        model=pl.format("lab/model-{}", (pl.col("number") % MODELS).cast(pl.String).str.zfill(4)),
        part=pl.format(f"{FOLDER}/layers-{{}}.parquet", pl.col("number") // PART_CELLS),
    )
    key = pl.format(cell_key("{}", "{}"), pl.col("model").str.replace("/", "--"), "cell_id").alias("key")
    parts = [_put_part(lake, number, cells) for number in range(-(-cells // PART_CELLS))]
    data = BytesIO()
    index.select(key, pl.exclude("number")).write_parquet(data)
    files = {CELL_FILE: data.getvalue(), LABEL_FILE: lake.encode_label_bundle()}
    for name, content in files.items():
        lake.store.put_new(f"{FOLDER}/{name}", content)
    lake.store.put_new(LATEST_KEY, canonical_json(_manifest(parts, files).model_dump(mode="json")).encode())
    assert snapshot.find_corrupt_file(lake.store) is None


def _put_part(lake: Lake, number: int, cells: int) -> Part:
    key, first = f"{FOLDER}/layers-{number}.parquet", number * PART_CELLS
    data, rows = BytesIO(), fill_template(checkpoint(first, MODELS), f"{first:032x}", "text:0", "quick@1")
    scan_unchecked([rows]).select(list(polars_schema())).collect().write_parquet(data)
    lake.store.put_new(key, data.getvalue())
    mine = min(PART_CELLS, cells - first)
    return Part(
        key=key, digest=bytes_digest(data.getvalue()), cells=mine, rows=LAYERS * mine, bytes=len(data.getvalue())
    )


def _manifest(parts: list[Part], files: dict[str, bytes]) -> Snapshot:
    digests = {name: bytes_digest(content) for name, content in files.items()}
    return Snapshot(
        key=FOLDER,
        parts=tuple(parts),
        digests=digests,
        bytes=sum(part.bytes for part in parts) + sum(map(len, files.values())),
        written_at=utc_now(),
        indexed_since=utc_now(),
        columns=tuple(polars_schema()),
    )
