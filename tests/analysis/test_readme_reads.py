"""A lake is plain Parquet, which duckdb, pandas and polars read in one line without this package."""

import duckdb
import pandas as pd
import polars as pl
import pytest

from tests.support import finding_rows

STEPS = (1, 2, 3)
MODELS = ("lab/one", "lab/two")


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    rows = [row for model in MODELS for step in STEPS for row in finding_rows.profile("dome", step=step, model=model)]
    return finding_rows.commit(tmp_path_factory.mktemp("lake"), rows).uri


def test_one_line_each_gives_equal_counts(lake):
    glob = f"{lake}/cells/v1/**/*.parquet"
    counts = {
        "duckdb": duckdb.sql(f"select count(*) from read_parquet('{glob}', union_by_name=true)").fetchall()[0][0],
        "polars": pl.scan_parquet(glob, missing_columns="insert", extra_columns="ignore")
        .select(pl.len())
        .collect()
        .item(),
        "pandas": sum(map(len, (_by_pandas(lake, model) for model in MODELS))),
    }
    assert set(counts.values()) == {len(MODELS) * len(STEPS) * finding_rows.LAYERS}


def _by_pandas(lake, model):
    wanted = [("model_key", "==", model.replace("/", "--"))]
    return pd.read_parquet(f"{lake}/cells", columns=["step", "layer", "id_twonn"], filters=wanted)


def test_pandas_reads_only_the_files_of_the_wanted_model(lake):
    assert _by_pandas(lake, MODELS[0])["step"].value_counts().to_dict() == dict.fromkeys(STEPS, finding_rows.LAYERS)


def test_the_partition_tells_models_apart_in_all_three(lake):
    glob = f"{lake}/cells/v1/**/*.parquet"
    expected = {model.replace("/", "--"): len(STEPS) * finding_rows.LAYERS for model in MODELS}
    by_duckdb = duckdb.sql(
        f"select model_key, count(*) from read_parquet('{glob}', union_by_name=true, hive_partitioning=true) group by 1"
    )
    assert dict(by_duckdb.fetchall()) == expected
    by_polars = (
        pl.scan_parquet(glob, missing_columns="insert", extra_columns="ignore", hive_partitioning=True)
        .group_by("model_key")
        .len()
    )
    assert dict(by_polars.collect().iter_rows()) == expected
    by_pandas = pd.read_parquet(f"{lake}/cells/v1").groupby("model_key", observed=True).size()
    assert by_pandas.to_dict() == expected


def test_numbers_are_the_same_whoever_reads(lake):
    glob = f"{lake}/cells/v1/**/*.parquet"
    sums = (
        duckdb.sql(f"select sum(anisotropy) from read_parquet('{glob}', union_by_name=true)").fetchall()[0][0],
        pl.scan_parquet(glob, missing_columns="insert", extra_columns="ignore")
        .select(pl.sum("anisotropy"))
        .collect()
        .item(),
        pd.read_parquet(f"{lake}/cells", columns=["anisotropy"])["anisotropy"].sum(),
    )
    assert sums == pytest.approx([sums[0]] * 3)
