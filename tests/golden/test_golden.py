"""Compatibility: ids, fingerprints and a lake written by commit 78e1148 stay valid in every later version."""

import shutil
from collections import Counter
from pathlib import Path

import polars as pl
import pytest

from pipeline import spec
from pipeline.columns import all_columns
from pipeline.lake import Lake, LakeReader, open_lake
from pipeline.lake.snapshot import compact
from pipeline.lake.status import lake_status
from pipeline.lake.verify import verify_lake
from pipeline.recipe import BUILT_IN_RECIPES, ContextRecipe, built_in_recipe
from pipeline.spec import Cell, Checkpoint, Corpus, Local, Resources, Sweep
from pipeline.sweep.plan import make_plan

HERE = Path(__file__).parent
ALGORITHMS = {
    **{"cleaning": 1, "sampling": 1, "capture": 1, "loss": 2},
    **{"counts": 1, "anisotropy": 4, "spectrum": 3, "norms": 3, "dimension": 2, "linearity": 3, "surrogate": 2},
}
"""`spec.ALGORITHMS` of commit 78e1148."""
GOLDEN = ContextRecipe(
    name="golden", version=1, contexts=8, groups=2, context_tokens=32, kept_per_context=16, surrogate=True
)
CELLS = {
    "448f9744f29f0672b28c306fc160c31b",
    "56c88f154232e2bfea5cba176019c283",
    "a5c44702daf8fcf900900e9d5d10478b",
    "ab87ae07c168bf4e96eccc2afd18e3e6",
    "b7c644d160555a415d8f7319903c21e4",
    "d1191b8c10a2ebcc323d29967d7ba333",
}
QUARANTINED = {"2ca23721daefab0445322b6894f5d259", "c2b860f26d004166620f87fe44d1f5cb"}
FINGERPRINTS = {
    "authors@1": "521d9ccafba69a3c6302ada2abbc2275",
    "standard@1": "0ebc0c41650eeb4a2cf547266b07028a",
    "quick@1": "6c892867ad8c4fb1f0a7bd5c76607b30",
}


@pytest.fixture
def frozen(monkeypatch):
    """Set the algorithm versions of the golden commit."""
    monkeypatch.setattr(spec, "ALGORITHMS", ALGORITHMS)


@pytest.fixture
def lake(tmp_path) -> Lake:
    return Lake(shutil.copytree(HERE / "lake", tmp_path / "lake"))


@pytest.fixture
def history(tmp_path, shared) -> Path:
    """Copy the three checkpoints that the golden lake has measured."""
    for step in ("step0", "step40", "step600"):
        shutil.copytree(shared("histories/wiki-gpt2") / step, tmp_path / "runs" / step)
    return tmp_path / "runs"


def point() -> Checkpoint:
    digests = {"weights_digest": "a" * 64, "config_digest": "b" * 64, "tokenizer_digest": "c" * 64}
    return Checkpoint(
        model="lab/small", revision="step1", path="/x", tokenizer_path="/x", kinds=("decoder",), step=1, **digests
    )


@pytest.mark.parametrize(
    ("corpus", "kind", "recipe", "expected"),
    [
        (Corpus(kind="random-uniform"), "decoder", "quick@1", "342ee92ae28e6b3fe9882a9323cfcbdb"),
        (
            Corpus(kind="enwik8", path="x", sha256="ab" * 32),
            "decoder",
            "standard@1",
            "2d3c363591c5b67b233e492d1fa14e7b",
        ),
        (
            Corpus(kind="text", path="a/book.txt", sha256="cd" * 32),
            "encoder",
            "authors@1",
            "63d7be3c858f9dc552df4ba416a1e1d1",
        ),
    ],
)
def test_cell_ids_do_not_change(frozen, corpus, kind, recipe, expected):
    assert Cell(checkpoint=point(), kind=kind, corpus=corpus, recipe=built_in_recipe(recipe)).id == expected


def test_recipe_fingerprints_do_not_change():
    assert {label: BUILT_IN_RECIPES[label].fingerprint for label in FINGERPRINTS} == FINGERPRINTS
    assert GOLDEN.fingerprint == "b31fc8adc79dd969538bfad636d1b33f"


def test_algorithm_versions_never_decrease():
    assert {name: version for name, version in ALGORITHMS.items() if spec.ALGORITHMS[name] < version} == {}


def test_the_lake_verifies(lake):
    assert verify_lake(lake) == []


def test_every_row_is_read_with_its_numbers(lake):
    assert lake.committed_cell_ids() == CELLS
    assert lake.quarantined_cell_ids() == QUARANTINED
    rows = LakeReader(lake.uri).layers().pl()
    assert rows.group_by("step", "corpus").len().sort("step", "corpus").rows() == [
        (step, corpus, 8) for step in (0, 40, 600) for corpus in ("random-uniform", "text:prose")
    ]
    files = pl.concat([pl.read_parquet(file) for file in sorted((HERE / "lake" / "cells").rglob("*.parquet"))])
    keys = ["cell_id", "layer"]
    shared_columns = [name for name in files.columns if name in rows.columns and name != "superseded"]
    assert rows.sort(keys).select(shared_columns).equals(files.sort(keys).select(shared_columns))


def test_failures_runs_and_audits_are_read(lake):
    assert Counter(failure.error_class for failure in lake.failures(QUARANTINED)) == {"permanent": 2}
    assert [run["committed"] for run in lake.runs()] == [4, 0, 2]
    assert [len(audit.revisions) for audit in lake.audits()] == [3]
    state = lake_status(lake)
    assert [(model["model"], model["cells"], model["quarantined"]) for model in state["models"]] == [
        ("golden/wiki-gpt2", 6, 2)
    ]


def test_compacting_keeps_every_row(lake):
    before = open_lake(lake.uri).layers().pl().sort("cell_id", "layer")
    assert compact(lake).cells == len(CELLS)
    assert open_lake(lake.uri).layers().pl().sort("cell_id", "layer").equals(before)
    assert verify_lake(lake) == []


def sweep(history: Path, steps: str = "all") -> Sweep:
    return Sweep(
        name="golden",
        checkpoints=(Local(local=str(history), model="golden/wiki-gpt2"),),
        corpora=(Corpus(kind="text", path=str(HERE / "prose.txt")), Corpus(kind="random-uniform")),
        recipe=GOLDEN,
        resources=Resources(cpus=1),
        steps=steps,
    )


def test_a_rerun_has_nothing_to_do(frozen, lake, history):
    plan = make_plan(sweep(history), lake)
    assert {cell.id for cell in plan.cells} == CELLS
    assert plan.todo == ()


def test_only_a_newer_algorithm_makes_a_cell_wanted_again(lake, history):
    reasons = make_plan(sweep(history), lake).count_reasons()
    assert set(reasons) <= {"algorithm version"}
    assert sum(reasons.values()) in (0, len(CELLS))


def test_a_new_measurement_gives_the_same_numbers(lake, history, tmp_path):
    """Tolerance 1e-9, because thread counts and CPUs change the last digits; the same values are null."""
    from pipeline.sweep.run import run

    if spec.ALGORITHMS != ALGORITHMS:
        pytest.skip("an algorithm has a newer version, so its numbers differ")
    fresh = Lake(tmp_path / "fresh")
    assert run(make_plan(sweep(history, steps="40"), fresh), fresh, "inline").exit_code == 0
    old, new = numbers(lake), numbers(fresh)
    assert len(new) > 1000
    assert new == pytest.approx({key: old[key] for key in new}, rel=1e-9, abs=1e-12)


def numbers(lake: Lake) -> dict[tuple[str, int, str, int], float]:
    """Return the non-null numbers outside cost and provenance by (cell, layer, column, list index)."""
    names = [column.name for column in all_columns() if column.group not in ("cost", "provenance")]
    found = {}
    for row in open_lake(lake.uri).layers().pl().select(names).to_dicts():
        for name, value in row.items():
            for index, item in enumerate(value if isinstance(value, list) else [value]):
                if isinstance(item, float):
                    found[row["cell_id"], row["layer"], name, index] = item
    return found
