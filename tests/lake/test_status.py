"""Status: committed cells, unresolved failures and tombstones."""

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pipeline.lake import Lake, Tombstone, lake_status
from tests.support import lake_rows
from tests.support.lake_rows import failure

ROOT = Path(__file__).resolve().parents[2]
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.fixture
def lake(tmp_path):
    return Lake(tmp_path / "lake")


def model(lake, name="lab/small"):
    return next(model for model in lake_status(lake)["models"] if model["model"] == name)


def test_an_empty_lake(lake):
    assert lake_status(lake) == {"lake": lake.uri, "models": [], "failures": [], "quarantined": [], "runs": []}


def test_a_model_counts_only_visible_cells(lake):
    points = [lake_rows.checkpoint(step) for step in (1, 2, 9)]
    lake.record_labels(points)
    ids = [lake_rows.commit(lake, point) for point in points]
    lake.quarantine(Tombstone(cell_id=ids[2], reason="wrong", by="me"))
    assert model(lake) == {
        "model": "lab/small",
        "checkpoints": 2,
        "cells": 2,
        "failed": 0,
        "quarantined": 1,
        "newest_step": 2,
        "corpora": ["random-uniform"],
        "recipes": ["quick@1"],
        "similarity": 0,
        "last_write": "2026-01-02T00:00:00Z",
    }
    assert [(stone["label"], stone["reason"]) for stone in lake_status(lake)["quarantined"]] == [
        ("lab/small@step9", "wrong")
    ]
    assert lake_status(lake)["failures"] == []


def test_a_model_whose_cells_were_measured_under_another_name_is_listed(lake):
    first, twin = lake_rows.checkpoint(1, weights="w"), lake_rows.checkpoint(5, weights="w", model="lab/twin")
    lake.record_labels([first, twin])
    lake_rows.commit(lake, first)
    assert (model(lake, "lab/twin")["cells"], model(lake, "lab/twin")["newest_step"]) == (1, 5)


def test_a_failed_cell_is_listed_with_its_last_cause_and_number_of_attempts(lake):
    point = lake_rows.checkpoint(1)
    for hour, message in enumerate(("first", "second")):
        lake.record_attempt(failure(point, message=message, when=LONG_AGO + timedelta(hours=hour)))
    (listed,) = lake_status(lake)["failures"]
    assert listed["label"] == "lab/small@step1"
    assert (listed["message"], listed["attempts"], listed["class"]) == ("second", 2, "crash")
    assert (listed["command"], listed["when"]) == ("shapelake measure ...", "2020-01-01T01:00:00Z")
    assert (model(lake)["failed"], model(lake)["quarantined"], listed["quarantined"]) == (1, 0, False)
    lake.quarantine(failure(point))
    assert (model(lake)["failed"], model(lake)["quarantined"]) == (0, 1)
    assert lake_status(lake)["failures"][0]["quarantined"]


def test_a_cell_that_was_committed_after_failures_has_not_failed(lake):
    lake.record_attempt(failure(lake_rows.checkpoint(1)))
    lake_rows.commit(lake, lake_rows.checkpoint(1))
    assert lake_status(lake)["failures"] == []


def test_a_failure_of_files_since_replaced_and_measured_is_dropped(lake):
    broken, fixed = lake_rows.checkpoint(1, weights="broken"), lake_rows.checkpoint(1, weights="fixed")
    lake.record_labels([broken])
    lake.quarantine(failure(broken, when=LONG_AGO))
    lake.record_attempt(failure(broken, when=LONG_AGO))
    assert len(lake_status(lake)["failures"]) == 1
    lake.record_labels([fixed])
    assert len(lake_status(lake)["failures"]) == 1, "fixed but not measured"
    lake_rows.commit(lake, fixed)
    assert lake_status(lake)["failures"] == []


def test_a_failure_after_the_label_was_measured_is_listed(lake):
    """A newer algorithm needs the measurement again, and it fails."""
    point = lake_rows.checkpoint(1)
    lake.record_labels([point])
    lake_rows.commit(lake, point)
    lake.record_attempt(failure(point, cell_id="f" * 32))
    assert [listed["cell_id"] for listed in lake_status(lake)["failures"]] == ["f" * 32]


def test_a_failure_on_another_corpus_is_listed(lake):
    lake.record_attempt(failure(lake_rows.checkpoint(1), cell_id="f" * 32, corpus="enwik8", when=LONG_AGO))
    lake_rows.commit(lake, lake_rows.checkpoint(1))
    assert len(lake_status(lake)["failures"]) == 1


def test_planning_and_status_load_no_heavy_library(lake):
    lake_rows.commit(lake, lake_rows.checkpoint(1))
    heavy = ("torch", "transformers", "ray", "duckdb", "pandas", "pyarrow")
    script = (
        "import sys; from pipeline.lake import Lake, lake_status; lake = Lake(sys.argv[1]); lake.committed_cell_ids(); "
        f"assert lake_status(lake)['models']; print([name for name in {heavy} if name in sys.modules])"
    )
    words = [sys.executable, "-c", script, lake.uri]
    assert subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout == "[]\n"
