"""End-to-end sweeps: a history on the Hub gives the same numbers as local copies, and scratch is empty afterwards."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import lake as lakes
from pipeline.columns import all_columns
from pipeline.lake import Lake
from pipeline.lake.open_store import open_store
from pipeline.spec import CheckpointSource, Hub, Local, Sweep
from pipeline.sweep.plan import Plan, make_plan
from pipeline.sweep.run import run
from tests.hub.conftest import SECRETS, contains_secret, files_with_secrets
from tests.support import fake_s3
from tests.support import tiny_checkpoints as tiny
from tests.support.fake_hub import FakeHub

STEPS = (0, 1, 2, 4, 8, 16)
MAY_DIFFER = {column.name for column in all_columns() if column.group in ("cost", "provenance")}
OF_A_LABEL = {"revision", "commit_sha", "family", "tokens_seen", "tokens_source"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.history(tmp_path_factory.mktemp("local") / "lab--small", list(STEPS))


def published(hub: FakeHub, folders: Path) -> None:
    repo = hub.repo("lab/small")
    for folder in sorted(folders.iterdir()):
        repo.commit({path.name: path.read_bytes() for path in folder.iterdir()}, branch=folder.name)


@pytest.fixture
def ray_folder() -> Iterator[Path]:
    """Create a temporary folder with a short path, which Ray's sockets need."""
    with tempfile.TemporaryDirectory(prefix="r", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def sweep(source: CheckpointSource, text: Path, **resources: object) -> Sweep:
    return Sweep.model_validate(
        {
            "name": "t",
            "checkpoints": [source],
            "corpora": [{"text": str(text)}],
            "recipe": tiny.RECIPE,
            "resources": {"cpus": 1, **resources},
        }
    )


def rows(lake: Lake) -> list[dict[str, object]]:
    frame = lakes.open_lake(lake.uri).query_frame("select * from layers order by step, layer")
    return [{k: v for k, v in row.items() if k not in MAY_DIFFER | OF_A_LABEL} for row in frame.to_dicts()]


def go(wanted: Sweep, lake: Lake) -> Plan:
    plan = make_plan(wanted, lake)
    report = run(plan, lake, "inline")
    assert (report.exit_code, report.committed) == (0, len(STEPS))
    return plan


def test_the_hub_and_the_folder_give_the_same_cells_and_numbers(hub, folders, text, tmp_path):
    published(hub, folders)
    near, far = Lake(tmp_path / "near"), Lake(tmp_path / "far")
    local = go(sweep(Local(local=str(folders), model="lab/small"), text), near)
    remote = go(sweep(Hub(hub="lab/small"), text), far)
    assert [cell.id for cell in local.cells] == [cell.id for cell in remote.cells]
    assert rows(near) == rows(far)
    left = [path.name for path in (tmp_path / "scratch").iterdir() if path.name != ".leases.lock"]
    assert left == [], "downloads are removed after they were measured"
    downloaded = lakes.open_lake(far.uri).sql("select min(download_bytes), max(download_bytes) from cells").fetchall()
    assert downloaded == [(remote.checkpoints[0].download_bytes,) * 2]
    assert remote.cost.download_bytes == len(STEPS) * remote.checkpoints[0].download_bytes


def test_a_disk_for_one_checkpoint_is_enough_for_all(hub, folders, text, tmp_path):
    published(hub, folders)
    gb = sum(path.stat().st_size for path in (folders / "step0").iterdir()) * 1.2 / 1e9
    go(sweep(Hub(hub="lab/small"), text, scratch_gb=gb, prefetch=2), Lake(tmp_path / "lake"))


def test_what_moves_between_plan_and_fetch_is_measured_as_planned(hub, folders, text, tmp_path):
    published(hub, folders)
    lake = Lake(tmp_path / "lake")
    plan = make_plan(sweep(Hub(hub="lab/small"), text), lake)
    hub.repo("lab/small").commit({"model.safetensors": b"moved"}, branch="step4")
    report = run(plan, lake, "inline")
    assert (report.exit_code, report.committed) == (0, len(STEPS))


def test_a_checkpoint_damaged_on_the_way_is_quarantined_and_the_others_go_on(hub, folders, text, tmp_path):
    published(hub, folders)
    lake = Lake(tmp_path / "lake")
    plan = make_plan(sweep(Hub(hub="lab/small"), text), lake)
    bad = next(c for c in plan.checkpoints if c.revision == "step2")
    hub.fail(f"*{bad.commit_sha}*safetensors*", flip=1000, times=None)
    report = run(plan, lake, "inline")
    assert (report.exit_code, report.committed) == (1, len(STEPS) - 1)
    assert [(cell.checkpoint.revision, o.error_class) for cell, o in report.failures.values()] == [
        ("step2", "permanent")
    ]
    assert len(lake.quarantined_cell_ids()) == 1


@pytest.mark.parametrize("backend", ["inline", "ray"])
def test_the_command_line_from_plan_to_query(hub, folders, text, tmp_path, backend, ray_folder):
    """Run in child processes that get Hub and secrets from the environment; no secret may be written anywhere."""
    published(hub, folders)
    (tmp_path / "sweep.yaml").write_text(
        f"name: t\ncheckpoints: [{{hub: lab/small}}]\ncorpora: [{{text: {text}}}]\nrecipe: {tiny.RECIPE}\n"
        "resources: {cpus: 1}\n"
    )
    shell = lambda *words: subprocess.run(  # noqa: E731
        [sys.executable, "-m", "pipeline", *words],
        env={**os.environ, "RAY_TMPDIR": str(ray_folder), "RAY_AUTH_MODE": "token"},
        capture_output=True,
        text=True,
        check=False,
    )
    lake = ["--lake", str(tmp_path / "lake")]
    planned = shell("plan", str(tmp_path / "sweep.yaml"), *lake)
    assert planned.returncode == 0, planned.stderr
    assert "lab/small: 6 checkpoints, steps 0 to 16 (NEW 6, names read by the general rule)" in planned.stdout
    ran = shell("run", str(tmp_path / "sweep.yaml"), *lake, "--backend", backend, "--steps", "0,4")
    assert ran.returncode == 0, ran.stderr
    asked = shell("query", "select count(distinct step) n from layers", *lake, "--csv")
    assert asked.stdout == "n\n2\n"
    assert not contains_secret("".join(done.stdout + done.stderr for done in (planned, ran, asked)))
    assert any(path.is_file() for path in ray_folder.rglob("*")) == (backend == "ray")
    assert files_with_secrets(ray_folder) == [], "Ray's own logs"


def test_a_lake_in_s3_that_refuses_cells_is_told_of_without_the_keys(hub, folders, text, monkeypatch, capfd):
    with fake_s3.serve(fake_s3.distrusting) as environment:
        for name, value in (environment | SECRETS).items():
            monkeypatch.setenv(name, value)
        lake = Lake("s3://bucket/lake")
        report = run(make_plan(sweep(Local(local=str(folders)), text), lake), lake, "inline")
        bucket = open_store("s3://bucket")
        files = {key: bucket.get(key) for key in bucket.list("lake")}
    assert (report.exit_code, report.committed) == (1, 0)
    assert "403 Forbidden" in report.stop_reason
    assert {key.rpartition("/")[2] for key in files} >= {"plan.json", "progress.json"}
    assert not [key for key, data in files.items() if contains_secret(data)]
    assert not contains_secret("".join([repr(report), *capfd.readouterr()]))
