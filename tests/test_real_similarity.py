"""Similarity records of a real history: layers become alike to their end, beyond the null and beyond token identity."""

import polars as pl
import pytest

from pipeline.analysis import compute_finding, load_layer_rows
from pipeline.analysis.checkpoint_similarity import measure_courses
from pipeline.analysis.recorded_cells import iter_recorded_histories
from pipeline.lake import Lake, open_lake
from pipeline.spec import Sweep
from pipeline.sweep.plan import make_plan
from pipeline.sweep.run import run
from tests.conftest import SHARED

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
RECIPE = {"name": "few", "version": 1, "groups": 4, "contexts": 16, "context_tokens": 64, "kept_per_context": 16}


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    for name in ("histories/wiki-neox", "data/enwik5"):
        if not (SHARED / name).exists():
            pytest.skip(f"needs {name} in the folder shared/ beside the project")
    sweep = Sweep.model_validate(
        {
            "name": "wiki",
            "checkpoints": [{"local": str(SHARED / "histories/wiki-neox")}],
            "corpora": [{"enwik8-raw": str(SHARED / "data/enwik5")}],
            "recipe": RECIPE,
            "steps": "0,64,512,2000,3000",
            "similarity": {"tokens": 256},
            "resources": {"cpus": 2, "slots": 1},
        }
    )
    lake = Lake(tmp_path_factory.mktemp("wiki") / "lake")
    assert run(make_plan(sweep, lake), lake, "inline").exit_code == 0
    return open_lake(lake.uri)


def test_the_similarity_of_each_layer_to_its_end_rises(reader):
    ((_, cells),) = iter_recorded_histories(load_layer_rows(reader))
    for measure in ("cka", "overlap_4"):
        for course in measure_courses(cells, measure):
            start, early, middle, late, end = course.value
            print(f"{measure} block {course.layer}: {start:.3f} {early:.3f} {middle:.3f} {late:.3f}")
            assert start < early < middle < late
            assert end == pytest.approx(1)


def test_step_0_against_trained_is_above_its_null_mostly_by_token_identity(reader):
    found = compute_finding("settling", reader).filter(pl.col("layer").is_not_null())
    assert set(found["verdict"]) == {"settles"}
    for row in found.iter_rows(named=True):
        print(f"{row['measure']} block {row['layer']}: {row['start']:.3f}, null {row['start_null']:.3f}, ", end="")
        print(f"p {row['start_p']:.3f}, one per token type {row['start_types']:.3f}")
        assert row["start_null"] < row["start_low"]
        assert row["start_p"] <= 0.01
        assert row["start_types"] < row["start"] / 2
