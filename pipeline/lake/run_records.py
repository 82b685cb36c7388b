"""Records of the runs of a lake: the plan and the last heartbeat of each run."""

import json
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from typing import Any

from pydantic import ValidationError

from pipeline.errors import LakeError
from pipeline.lake.layout import RUNS_PREFIX
from pipeline.lake.record_files import read_records
from pipeline.lake.records import Heartbeat, utc_now
from pipeline.lake.store import Store

MAX_RECENT_RUNS = 5


def write_plan(store: Store, run_id: str, plan: Mapping[str, Any]) -> None:
    store.put_new(f"{RUNS_PREFIX}/{run_id}/plan.json", json.dumps(plan).encode())


def write_heartbeat(store: Store, run_id: str, progress: Mapping[str, Any]) -> None:
    """Replace the progress record of a run with `progress`, to which `run_id` and the time (`when`) are added."""
    record = {**progress, "run_id": run_id, "when": utc_now().isoformat()}
    store.put_or_replace(_progress_key(run_id), json.dumps(record).encode())


def read_runs(store: Store) -> list[dict[str, Any]]:
    """Return the last progress record of every run, oldest heartbeat first."""
    runs = sorted(read_records(store, Heartbeat, _progress_keys(store)), key=lambda run: run.when)
    return [run.model_dump(mode="json") for run in runs]


def active_runs(store: Store, within: timedelta) -> list[str]:
    """Return the ids of unfinished runs whose last heartbeat is younger than `within`.

    Only the `MAX_RECENT_RUNS` runs that began last are read.
    """
    run_ids = [key.split("/")[-2] for key in _progress_keys(store)[-MAX_RECENT_RUNS:]]
    return [run_id for run_id in run_ids if is_active(store, run_id, within)]


def is_active(store: Store, run_id: str, within: timedelta) -> bool:
    """Return True if this run has not ended and its last heartbeat is younger than `within`."""
    with suppress(LakeError, ValidationError):  # no such run, or a damaged record, which must not stop a new run
        run = Heartbeat.model_validate_json(store.get(_progress_key(run_id)))
        return not run.ended and run.when > utc_now() - within
    return False


def _progress_keys(store: Store) -> list[str]:
    """Return the keys in the order in which the runs began: run ids sort by start time."""
    return sorted(key for key in store.list(RUNS_PREFIX) if key.endswith("/progress.json"))


def _progress_key(run_id: str) -> str:
    return f"{RUNS_PREFIX}/{run_id}/progress.json"
