"""A lake in S3 is plain Parquet: pyarrow and polars read every committed value without this package."""

from collections.abc import Iterator
from typing import Any

import polars as pl
import pyarrow.dataset as ds
import pytest
from pyarrow.fs import S3FileSystem

from pipeline.lake import Lake, to_table
from tests.support import fake_s3, lake_rows

POINTS = [lake_rows.checkpoint(step, model=model) for model in ("lab/one", "lab/two") for step in (1, 2)]
CELLS = "bucket/some/lake/cells/v1"
Rows = list[dict[str, Any]]


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """URL of a server with a lake. Readers find the keys in the environment and get the URL as an option."""
    with fake_s3.serve() as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        lake = Lake("s3://bucket/some/lake")
        for point in POINTS:
            lake_rows.commit(lake, point)
        monkeypatch.delenv("AWS_ENDPOINT")
        monkeypatch.delenv("AWS_ALLOW_HTTP")
        yield environment["AWS_ENDPOINT"]


def in_order(rows: Rows) -> Rows:
    return sorted(rows, key=lambda row: (row["model"], row["step"], row["layer"]))


def written() -> Rows:
    rows: Rows = []
    for point in POINTS:
        table = to_table(lake_rows.rows(lake_rows.cell(point)), {})
        rows += [{"model_key": point.model_key} | row for row in table.to_pylist()]
    return in_order(rows)


def test_pyarrow_reads_every_value_and_the_partition_key(endpoint):
    """Read through a file system object, and in one line as in README."""
    host = endpoint.removeprefix("http://")
    system = S3FileSystem(endpoint_override=host, scheme="http", region="us-east-1")
    for source, options in (
        (CELLS, {"filesystem": system}),
        (f"s3://{CELLS}?endpoint_override={host}&scheme=http", {}),
    ):
        found = ds.dataset(source, partitioning="hive", **options).to_table()
        assert in_order(found.to_pylist()) == written()


def test_polars_reads_every_value_and_the_partition_key(endpoint):
    options = {"aws_endpoint_url": endpoint, "aws_allow_http": "true"}
    lazy = pl.scan_parquet(
        f"s3://{CELLS}/**/*.parquet",
        missing_columns="insert",
        extra_columns="ignore",
        hive_partitioning=True,
        storage_options=options,
    )
    assert in_order(lazy.collect().to_dicts()) == written()
