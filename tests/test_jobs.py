"""Every job says what it asks, how to start it, what it costs and what to expect, and asks for what there is."""

import importlib
import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest

from pipeline.catalog.families import find_family, get_family, load_families
from pipeline.catalog.revision_names import parse_name
from pipeline.spec import Hub, Members, Sweep
from pipeline.sweep.config import load_sweep

FOLDER = Path(__file__).parents[1] / "jobs"
JOBS = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "__init__" and "\n# %%" not in path.read_text())
"""Without the notebook, which is no job: it reads a lake when it is imported."""
PARTS = ("Source", "Command", "Bytes", "GPU-hours", "Expect")
EQUATION = re.compile(r"(?<![\w.])\d[\d.,e]*(?: [x/+] \d[\d.e]*)+ = \d[\d.e]*\d")


def module(name: str) -> Any:
    return importlib.import_module(f"jobs.{name}")


def docstring(name: str) -> str:
    return module(name).__doc__ or ""


def on_the_hub(name: str) -> bool:
    """By its text: a job is imported only where it is tested."""
    return re.search(r"\b(Hub|Members|TRAINING)\b", (FOLDER / f"{name}.py").read_text()) is not None


ON_THE_HUB = list(filter(on_the_hub, JOBS))


def equations(text: str) -> Iterator[str]:
    yield from (match.group() for match in EQUATION.finditer(" ".join(text.split())))


def value(side: str) -> float:
    """Of `a x b / c + d`, from left to right as people read it, products before sums."""
    total = 0.0
    for part in side.split(" + "):
        first, *rest = re.split(r" ([x/]) ", part)
        product = float(first.replace(",", ""))
        for sign, factor in zip(rest[::2], rest[1::2], strict=True):
            product = product * float(factor) if sign == "x" else product / float(factor)
        total += product
    return total


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
def test_a_job_on_the_hub_tells_its_cost_and_what_to_expect(name: str) -> None:
    told = docstring(name)
    for part in PARTS:
        assert re.search(rf"^{part}\b.*:", told, re.MULTILINE), part
    assert f"python -m jobs.{name} --lake LAKE" in told
    assert "?" in told.split("\nSource")[0]


@pytest.mark.parametrize("name", ON_THE_HUB)
def test_the_arithmetic_is_right(name: str) -> None:
    shown = list(equations(docstring(name)))
    assert len(shown) >= 2  # bytes and GPU-hours
    for equation in shown:
        left, right = equation.split(" = ")
        assert value(left) == pytest.approx(float(right), rel=0.04), equation


@pytest.mark.parametrize("name", ON_THE_HUB)
def test_a_job_asks_for_what_the_table_knows_and_can_measure(name: str) -> None:
    for source in module(name).SWEEP.checkpoints:
        if isinstance(source, Hub):
            one = find_family(source.hub)
            assert not one.is_generic, source
        else:
            assert isinstance(source, Members)
            one = get_family(source.family)
            assert one.list_repos(source.models), source
        assert one.unloadable is None, source


def test_every_wanted_job_is_there() -> None:
    wanted = {"pythia", "polypythias", "bloom", "tinyllama", "olmo", "multiberts", "ettin", "stanford_gpt2", "refresh"}
    assert wanted | {"figure_anisotropy", "figure_training", "random_tokens"} <= set(ON_THE_HUB)


def test_refresh_takes_every_small_history_once_and_nothing_else() -> None:
    taken = [
        (source.family, repo)
        for source in module("refresh").SWEEP.checkpoints
        for repo in get_family(source.family).list_repos(source.models)
    ]
    wanted = {
        (one.name, repo)
        for one in load_families()
        for repo in one.list_repos()
        if one.tier_of(repo) == "small" and one.where != "final" and not one.unloadable
    }
    assert len(taken) == len(set(taken))
    assert set(taken) == wanted
    assert {"pythia", "pythia-seeds", "multiberts", "ettin", "stanford-gpt2", "bloom"} <= {name for name, _ in taken}
    assert not any(fnmatchcase(repo, "*-1b") for _, repo in taken)


def test_no_job_measures_a_history_that_is_mostly_known_to_be_wrong() -> None:
    """pythia-2.8b serves the end of training under most of its early names."""
    asked = {source.hub for name in ON_THE_HUB for source in module(name).SWEEP.checkpoints if isinstance(source, Hub)}
    grid = [f"step{step}" for step in range(1000, 144000, 1000)]
    assert all(parse_name(step) for step in grid)
    for repo in asked:
        one = find_family(repo)
        assert sum(bool(one.known_bad_for(repo, step)) for step in grid) < len(grid) / 10, repo
