"""Every job states its question, command, cost and expectation, and selects checkpoints that exist."""

import importlib
import math
import re
import subprocess
import sys
import tomllib
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest

from pipeline.catalog.families import find_family, get_family, load_families
from pipeline.catalog.revision_names import parse_name
from pipeline.spec import Hub, Members, Sweep
from pipeline.sweep.config import load_sweep
from tests.support.equations import equations, value

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "jobs"
JOBS = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "__init__" and "\n# %%" not in path.read_text())
"""All jobs; the notebook jobs/tour.py is excluded, because importing it reads a lake."""
PARTS = ("Source", "Command", "Bytes", "GPU-hours", "Expect")


def module(name: str) -> Any:
    return importlib.import_module(f"jobs.{name}")


def docstring(name: str) -> str:
    return module(name).__doc__ or ""


def on_the_hub(name: str) -> bool:
    """Return True if a job selects Hub checkpoints; reads its source, so that only tests import jobs."""
    return re.search(r"\b(Hub|Members|TRAINING)\b", (FOLDER / f"{name}.py").read_text()) is not None


ON_THE_HUB = list(filter(on_the_hub, JOBS))


@pytest.mark.parametrize("name", JOBS)
def test_a_job_is_a_sweep_or_a_program(name: str) -> None:
    job = module(name)
    assert "\nCommand: " in docstring(name)
    if hasattr(job, "SWEEP"):
        assert isinstance(job.SWEEP, Sweep)
        assert load_sweep(f"jobs.{name}").name == job.SWEEP.name
    else:
        assert callable(job.main)


@pytest.mark.parametrize("name", ON_THE_HUB)
def test_a_job_on_the_hub_states_its_cost_and_expectation(name: str) -> None:
    text = docstring(name)
    for part in PARTS:
        assert re.search(rf"^{part}\b.*:", text, re.MULTILINE), part
    assert f"python -m jobs.{name} --lake LAKE" in text
    assert "?" in text.split("\nSource")[0]


@pytest.mark.parametrize("name", ON_THE_HUB)
def test_the_arithmetic_is_right(name: str) -> None:
    found = list(equations(docstring(name)))
    assert len(found) >= 2  # bytes and GPU-hours
    for equation in found:
        left, right = equation.split(" = ")
        assert value(left) == pytest.approx(float(right), rel=0.04), equation


@pytest.mark.parametrize("name", ON_THE_HUB)
def test_a_job_selects_families_that_are_catalogued_and_loadable(name: str) -> None:
    for source in module(name).SWEEP.checkpoints:
        if isinstance(source, Hub):
            family = find_family(source.hub)
            assert not family.is_generic, source
        else:
            assert isinstance(source, Members)
            family = get_family(source.family)
            assert family.list_repos(source.models), source
        assert family.unloadable is None, source


def test_every_planned_job_exists() -> None:
    wanted = {"pythia", "polypythias", "bloom", "tinyllama", "olmo", "multiberts", "ettin", "stanford_gpt2", "refresh"}
    assert wanted | {"figure_anisotropy", "figure_training", "random_tokens"} <= set(ON_THE_HUB)


def test_refresh_selects_every_small_history_once_and_nothing_else() -> None:
    taken = [
        (source.family, repo)
        for source in module("refresh").SWEEP.checkpoints
        for repo in get_family(source.family).list_repos(source.models)
    ]
    wanted = {
        (family.name, repo)
        for family in load_families()
        for repo in family.list_repos()
        if family.tier_of(repo) == "small" and family.where != "final" and not family.unloadable
    }
    assert len(taken) == len(set(taken))
    assert set(taken) == wanted
    assert {"pythia", "pythia-seeds", "multiberts", "ettin", "stanford-gpt2", "bloom"} <= {name for name, _ in taken}
    assert not any(fnmatchcase(repo, "*-1b") for _, repo in taken)


def test_no_job_measures_a_mostly_mislabelled_history() -> None:
    """pythia-2.8b holds weights from the end of training under most of its early step names."""
    repos = {source.hub for name in ON_THE_HUB for source in module(name).SWEEP.checkpoints if isinstance(source, Hub)}
    grid = [f"step{step}" for step in range(1000, 144000, 1000)]
    assert all(parse_name(step) for step in grid)
    for repo in repos:
        family = find_family(repo)
        assert sum(bool(family.known_bad_for(repo, step)) for step in grid) < len(grid) / 10, repo


def test_the_readme_lists_every_job_with_its_cost() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", (FOLDER / "README.md").read_text(), re.MULTILINE))
    assert set(rows) == {name for name in JOBS if hasattr(module(name), "SWEEP")}
    for name in set(rows) & set(ON_THE_HUB):
        *_, size, hours = rows[name].split(" | ")
        for part, figure in (("Bytes", size), ("GPU-hours", hours)):
            assert any(float(figure) == pytest.approx(cost, rel=0.05) for cost in costs(name, part)), (name, part)


def costs(name: str, part: str) -> list[float]:
    """Results of the equations in one part of a docstring, and their sum; the number of tokens is left out."""
    text = re.search(rf"^{part}\b.*?(?=^(?:GPU-hours|Expect)\b)", docstring(name), re.MULTILINE | re.DOTALL)
    assert text, (name, part)
    results = [float(equation.split(" = ")[1]) for equation in equations(text[0]) if "1024 x 256" not in equation]
    return [*results, sum(results)]


def test_the_installed_package_has_the_jobs():
    """So `python -m jobs.NAME` works from any folder."""
    from setuptools import find_packages

    fields = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]
    assert {"jobs", "pipeline.cli"} <= set(find_packages(str(ROOT), **fields))


def test_the_tour_of_a_path_without_a_lake_ends_in_two_lines(tmp_path):
    words = [sys.executable, "-m", "jobs.tour", str(tmp_path / "typo")]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 2), done.stderr
    assert "no such folder" in done.stderr


def test_the_job_of_the_claims_names_the_histories_of_every_claim_and_measures_them():
    from pipeline.analysis.claim_registry import load_claims

    job = module("claims")
    assert set(job.HISTORIES_OF_CLAIMS) == set(load_claims())
    measured = {source.hub if isinstance(source, Hub) else source.family for source in job.SWEEP.checkpoints}
    assert {name for names in job.HISTORIES_OF_CLAIMS.values() for name in names} == measured


def test_the_job_of_the_claims_makes_the_records_that_its_claims_need():
    """Claims about similarity are decided only by a sweep that asks for similarity records."""
    from pipeline.analysis.claim_registry import load_claims

    job, claims = module("claims"), load_claims()
    needed = {name for name in job.HISTORIES_OF_CLAIMS if claims[name].needs.startswith("similarity records")}
    assert needed == {"peak-layers-predict-each-other", "overlap-profile", "lower-layers-settle-first"}
    assert job.SWEEP.similarity is not None
    assert f"{job.SWEEP.similarity.bytes_per_layer} bytes a layer" in docstring("claims")


def test_the_job_of_the_claims_says_which_p_can_not_be_small():
    from pipeline.analysis.explosions import DRAWS

    assert f"`dimension-before-explosions` {1 / (DRAWS + 1):.0e}".replace("e-04", "e-4") in docstring("claims")
    models = len(module("claims").DECODERS)
    assert f"{math.factorial(models)} with {models} models" in docstring("claims")
