"""Reruns after changes on the Hub: number of requests and of cells that run."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline import lake as lakes
from pipeline.lake import Lake
from pipeline.spec import Hub, Sweep
from pipeline.sweep.plan import Plan, make_plan
from pipeline.sweep.run import run
from pipeline.sweep.run_report import RunReport
from pipeline.sweep.task import Outcome, Task
from tests.support import stub_checkpoints as stub
from tests.support.fake_hub import FakeHub, Repo
from tests.support.stub_files import files

STEPS = (0, 1, 2, 4, 1000)


def published(hub: FakeHub, name: str = "lab/small") -> Repo:
    repo = hub.repo(name)
    for step in STEPS:
        repo.commit(files(f"{name} {step}"), branch=f"step{step}")
    repo.branches["main"] = repo.branches["step1000"]
    return repo


@pytest.fixture
def repo(hub: FakeHub) -> Repo:
    return published(hub)


@pytest.fixture
def lake(tmp_path: Path, hub: FakeHub) -> Lake:
    return Lake(tmp_path / "lake")


def sweep(*repos: str, corpora: tuple[str, ...] = ("random-uniform",), recipe: str = "quick@1") -> Sweep:
    return Sweep(
        name="t",
        checkpoints=tuple(Hub(hub=repo) for repo in repos or ("lab/small",)),
        corpora=corpora,  # type: ignore[arg-type]
        recipe=recipe,  # type: ignore[arg-type]
    )


def work(task: Task) -> list[Outcome]:
    return [stub.commit(task, cell) for cell in task.cells]


def go(lake: Lake, wanted: Sweep | None = None) -> tuple[Plan, RunReport]:
    plan = make_plan(wanted or sweep(), lake)
    return plan, run(plan, lake, "inline", work)


def states(plan: Plan) -> dict[str, str]:
    return {revision.name: revision.state for history in plan.histories for revision in history.revisions}


def test_a_first_run_takes_every_step_once_and_a_second_none(repo: Repo, lake: Lake, hub: FakeHub) -> None:
    plan, report = go(lake)
    assert plan.count_reasons() == {"new checkpoint": len(STEPS)}
    assert (report.exit_code, report.committed) == (0, len(STEPS))
    before = len(hub.requests)
    plan, report = go(lake)
    assert (plan.todo, report.committed) == ((), 0)
    assert [request.path for request in hub.requests[before:]] == ["/api/models/lab/small/refs"]
    assert set(states(plan).values()) == {"UNCHANGED"} | ({states(plan)["main"]} if "main" in states(plan) else set())


def test_a_new_branch_is_one_cell(repo: Repo, lake: Lake) -> None:
    go(lake)
    repo.commit(files("another"), branch="step2000")
    plan, report = go(lake)
    assert plan.count_reasons() == {"new checkpoint": 1}
    assert (report.committed, states(plan)["step2000"]) == (1, "NEW")


def test_a_readme_costs_one_listing_and_no_cell(repo: Repo, lake: Lake, hub: FakeHub) -> None:
    go(lake)
    repo.commit({"README.md": b"hello"}, branch="step4")
    before = len(hub.requests)
    plan, report = go(lake)
    assert (plan.todo, report.committed, states(plan)["step4"]) == ((), 0, "RETAGGED")
    assert sorted(request.path.split("/")[5] for request in hub.requests[before:]) == ["refs", "tree"]


def test_an_upload_over_an_old_label_runs_once_and_the_old_rows_stay(repo: Repo, lake: Lake) -> None:
    go(lake)
    repo.commit({"model.safetensors": b"corrected"}, branch="step2")
    plan, report = go(lake)
    assert (plan.count_reasons(), report.committed, states(plan)["step2"]) == ({"re-uploaded": 1}, 1, "REUPLOADED")
    rows = lakes.open_lake(lake.uri).sql("select superseded, count(*) from layers where step = 2 group by 1 order by 1")
    assert rows.fetchall() == [(False, stub.LAYERS), (True, stub.LAYERS)]


def test_two_labels_of_equal_weights_run_once_and_both_have_rows(repo: Repo, lake: Lake) -> None:
    repo.branches["step3"] = repo.commit(files("lab/small 2"), branch="step3")
    plan, report = go(lake)
    assert report.committed == len(STEPS), "step3 has the weights of step2"
    assert states(plan)["step3"] == "DUPLICATE_OF"
    rows = lakes.open_lake(lake.uri).sql("select revision, duplicate_of from layers where step in (2, 3) and layer = 0")
    assert sorted(rows.fetchall()) == [("step2", "lab/small@step3"), ("step3", "lab/small@step2")]


def test_what_cannot_be_measured_is_listed_and_does_not_fail(repo: Repo, lake: Lake) -> None:
    repo.commit({"README.md": b"later"}, branch="step3000")
    repo.commit(files("?"), branch="the-good-one")
    plan, report = go(lake)
    assert (report.exit_code, report.committed) == (0, len(STEPS))
    assert (states(plan)["step3000"], states(plan)["the-good-one"]) == ("NO_WEIGHTS", "UNPARSED")
    seen = (
        lakes.open_lake(lake.uri).sql("select audit, measured from checkpoints where revision = 'step3000'").fetchall()
    )
    assert seen == [("NO_WEIGHTS", False)]


def test_a_branch_that_went_away_is_gone_and_its_rows_stay(repo: Repo, lake: Lake) -> None:
    go(lake)
    repo.delete("step1")
    plan, report = go(lake)
    assert (plan.todo, states(plan)["step1"], report.exit_code) == ((), "GONE", 0)
    assert lakes.open_lake(lake.uri).sql("select count(*) from layers where step = 1").fetchall() == [(stub.LAYERS,)]


def test_a_gated_repo_is_listed_and_skipped(repo: Repo, lake: Lake, hub: FakeHub) -> None:
    published(hub, "lab/secret").gated = True
    plan, report = go(lake, sweep("lab/small", "lab/secret"))
    assert (report.exit_code, report.committed) == (0, len(STEPS))
    gated = next(history for history in plan.histories if history.model == "lab/secret")
    assert {revision.state for revision in gated.revisions} == {"GATED"}


def test_the_reasons_tell_a_corpus_from_a_recipe_from_an_algorithm(
    repo: Repo, lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline import spec

    go(lake)
    (tmp_path / "book.txt").write_text("a book")
    both = sweep(corpora=("random-uniform", f"text:{tmp_path / 'book.txt'}"))
    repo.commit(files("another"), branch="step2000")
    plan, _ = go(lake, both)
    assert plan.count_reasons() == {"missing corpus": len(STEPS), "new checkpoint": 2}
    assert make_plan(sweep(recipe="standard@1"), lake).count_reasons() == {"missing recipe": len(STEPS) + 1}
    monkeypatch.setitem(spec.ALGORITHMS, "loss", spec.ALGORITHMS["loss"] + 1)
    assert make_plan(sweep(), lake).count_reasons() == {"algorithm version": len(STEPS) + 1}


def test_a_warm_plan_over_twenty_repos_makes_twenty_requests(hub: FakeHub, lake: Lake) -> None:
    names = [f"lab/m{index}" for index in range(20)]
    for name in names:
        published(hub, name)
    make_plan(sweep(*names), lake)
    before = len(hub.requests)
    assert len(make_plan(sweep(*names), lake).cells) == 20 * len(STEPS)
    assert len(hub.requests) - before == 20


def test_a_repo_that_two_sources_name_counts_once(repo: Repo, lake: Lake) -> None:
    plan = make_plan(sweep("lab/small", "lab/small"), lake)
    assert (len(plan.checkpoints), len(plan.cells)) == (len(STEPS) + 1, len(STEPS)), "main is the last step"


def test_another_config_under_the_same_weights_says_so(repo: Repo, lake: Lake) -> None:
    go(lake)
    repo.commit({"config.json": json.dumps(stub.CONFIG | {"n_ctx": 7}).encode()}, branch="step4")
    plan, report = go(lake)
    assert (plan.count_reasons(), report.committed) == ({"new config or tokenizer": 1}, 1)


def test_a_run_that_is_stopped_while_it_fetches_leaves_nothing(
    repo: Repo, lake: Lake, hub: FakeHub, tmp_path: Path
) -> None:
    """A child process gets SIGTERM while a download hangs."""
    (tmp_path / "sweep.yaml").write_text(
        "name: t\ncheckpoints: [{hub: lab/small}]\ncorpora: [random-uniform]\nrecipe: quick@1\n"
        "resources: {cpus: 1, drain_s: 1}\n"
    )
    hub.fail("*safetensors*", stall=60.0, times=None)
    words = ["run", str(tmp_path / "sweep.yaml"), "--lake", lake.uri, "--backend", "inline"]
    child = subprocess.Popen([sys.executable, "-m", "pipeline", *words], stderr=subprocess.PIPE)
    scratch = tmp_path / "scratch"
    while not any(path.is_dir() for path in scratch.glob("*")):
        time.sleep(0.1)
    child.send_signal(signal.SIGTERM)
    _, stderr = child.communicate(timeout=60)
    assert child.returncode == 143, stderr
    assert [path for path in scratch.iterdir() if path.is_dir()] == []


def test_a_renamed_repo_is_the_same_model_under_its_new_name(repo: Repo, lake: Lake, hub: FakeHub) -> None:
    go(lake)
    hub.rename("lab/small", "laboratory/small")
    plan, report = go(lake)
    assert (plan.todo, report.exit_code) == ((), 0)
    plan, _ = go(lake)
    assert set(states(plan).values()) == {"UNCHANGED"}
    rows = lakes.open_lake(lake.uri).sql("select model, count(distinct step) from layers group by 1").fetchall()
    assert rows == [("laboratory/small", len(STEPS))]
