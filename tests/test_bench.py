"""Benchmark: printed and written results are complete and consistent; no test asserts a speed."""

import json
from pathlib import Path
from statistics import median

import pytest
import torch

from jobs.bench import __main__ as bench
from jobs.bench import (
    cell_files,
    checkpoint,
    kernels,
    knn,
    lake,
    lake_child,
    lake_costs,
    layer,
    peers,
    sampling,
    similarity,
    spectrum,
    sweep,
    table,
)
from jobs.bench.checkpoint import BARE, FLOOR, PLAIN
from jobs.bench.comparison import Comparison, Subject, at_least, at_most
from jobs.bench.scale import QUICK, Knn, Model
from jobs.bench.timing import Took, interleaved
from pipeline.lake import Lake, open_lake

TINY = QUICK._replace(
    knn=(Knn(300, 16, rounds=3),),
    layer=Knn(300, 16),
    sampled_contexts=8,
    lakes=(60,),
    snapshot_cells=100,
    new_cells=20,
    local_checkpoints=5,
    full=True,
)
RESULTS = Path(bench.__file__).parent / "results"
PUBLISHED = """
import torch
def intrinsic_dimension(emb, device):
    seen.append(0)
    for i in range(len(emb)):
        torch.nn.functional.pairwise_distance(emb[i, None, :], emb[None, :, :], eps=0)
        seen[-1] += 1
    raise AssertionError("the loop was not stopped")
seen = []
"""


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stub of the authors' file with their loop; DADApy is not installed."""
    path = tmp_path / "functions.py"
    path.write_text(PUBLISHED)
    monkeypatch.setattr(peers, "PUBLISHED", path)
    monkeypatch.setattr(peers, "INSTALLED", tmp_path / "absent")
    peers.authors.cache_clear()
    yield path
    peers.authors.cache_clear()


@pytest.fixture
def written(published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> tuple[dict, str]:
    """JSON and stdout of `--only knn --quick` at tiny sizes."""
    monkeypatch.setattr("jobs.bench.scale.QUICK", TINY)
    bench.main(["--only", "knn", "--quick", "--json", str(tmp_path / "bench.json")])
    return json.loads((tmp_path / "bench.json").read_text()), capsys.readouterr().out


def test_the_json_names_machine_threads_versions_and_date(written):
    found, _ = written
    assert {"processor", "cores", "memory_gib", "load_average", "python", "gpu", "device", "quick"} <= set(found)
    assert found["threads"] == torch.get_num_threads()
    assert found["versions"]["torch"].startswith(torch.__version__.partition("+")[0])
    assert len(found["date"].split("-")) == 3
    assert found["absent"] == ["DADApy"]


def test_every_row_holds_its_rounds_and_a_ratio_and_verdict_that_follow_from_them(written):
    rows = written[0]["rows"]
    assert {row["reference"] for row in rows} == {
        "GEMM floor",
        "authors' loop",
        "scikit-dimension TwoNN",
        "scikit-learn",
    }
    for row in rows:
        assert (row["group"], row["n"], row["dim"], row["rounds"], row["unit"]) == ("knn", 300, 16, 3, "CPU s")
        ours, theirs = row["ours_rounds"], row["theirs_rounds"]
        assert row["ours"] == median(ours) > 0
        assert row["theirs"] == median(theirs) > 0
        ratios = [o / t if row["ratio_is"] == "ours / reference" else t / o for o, t in zip(ours, theirs, strict=True)]
        assert row["ratio"] == pytest.approx(median(ratios))
        assert row["spread"] == pytest.approx(median(abs(r - median(ratios)) for r in ratios))
        if row["target"] is None:
            assert row["verdict"] is None
        else:
            sense, bound = row["target"].split()
            met = row["ratio"] <= float(bound) if sense == "<=" else row["ratio"] >= float(bound)
            assert row["verdict"] == ("pass" if met else "falls short")
    assert {row["target"] for row in rows} == {"<= 1.2", "<= 1.5", ">= 340", ">= 2", None}


def test_the_table_has_a_line_per_row_and_names_absent_peers(written):
    found, out = written
    lines = [line for line in out.splitlines() if line.startswith("| k-NN")]
    assert len(lines) == len(found["rows"])
    assert {line.count(" | ") for line in lines} == {7}
    assert [line for line in out.splitlines() if "make bench" in line and "DADApy" in line]


def test_the_authors_loop_is_stopped_and_scaled_to_all_points(published, monkeypatch):
    """The stub clock advances one second per call, so a point takes one second for any number of points."""
    ticks = iter(range(1000))
    monkeypatch.setattr(peers, "now", lambda device: Took(float(tick := next(ticks)), 2.0 * tick))
    for points in (1, 7):
        assert peers.authors_loop(torch.zeros(50, 3), points) == Took(50.0, 100.0)
    assert peers.authors().seen == [1, 7]


def test_a_large_cloud_queries_part_of_scikit_learn_and_skips_peers_without_queries(published):
    """The note of its row states the number of points; peers with N x N distances are skipped."""
    sizes = TINY._replace(knn=(Knn(300, 16, rounds=1, queries=100),))
    notes = {row.reference: row.note for row in knn.rows(sizes, "cpu")}
    assert notes["scikit-learn"] == "from 100 of its points"
    assert set(notes) == {"GEMM floor", "authors' loop", "scikit-learn"}


@pytest.mark.slow
def test_few_tokens_are_compared_with_all_tokens_per_state():
    """There is one round per hidden state; the errors are those of the few tokens."""
    (row,) = sampling.rows(TINY, "cpu")
    assert row.subject.work.startswith("anisotropy of 32 instead of 256 tokens")
    assert len(row.ours) == len(row.theirs) == sampling.LAYERS + 2
    assert min(row.theirs) > 0
    assert 0 < row.ratio < 4


def test_contenders_alternate():
    turns = []
    contenders = {name: lambda name=name: turns.append(name) or Took(1.0, 2.0) for name in "ab"}
    assert interleaved(contenders, 3) == {"a": [Took(1.0, 2.0)] * 3, "b": [Took(1.0, 2.0)] * 3}
    assert turns == ["a", "b"] * 3


@pytest.mark.parametrize(
    ("wanted", "ratio", "verdict"),
    [
        (at_most(1.5), 2.0, "falls short"),
        (at_most(2.0), 2.0, "pass"),
        (at_least(0.5), 0.5, "pass"),
        (at_least(3.0), 0.5, "falls short"),
        (at_most(), 2.0, None),
    ],
)
def test_costs_are_ours_over_theirs_and_gains_the_reverse(wanted, ratio, verdict):
    row = Comparison(Subject("knn", "w", 1), "r", "s", [2.0, 4.0, 5.0], [1.0, 2.0, 1.0], wanted)
    assert (row.ratio, row.verdict) == (ratio, verdict)


def test_lakes_are_planned_and_queried_at_their_sizes(monkeypatch):
    """The rows themselves assert the remaining cells of each plan and that the query finds every step of a model."""
    monkeypatch.setattr(lake, "ROUNDS", 1)
    found = list(lake.rows(TINY, "cpu"))
    costs = [row for row in found if row.unit in ("CPU s", "MB") and row.subject.n == 60]
    assert [row.subject.work for row in costs if row.unit == "MB"] == list(lake_child.STEPS)
    limited = [row.subject.work for row in found if (row.unit, row.reference) == ("CPU s", "limit")]
    assert limited == list(lake_costs.CPU_LIMITS_S)
    assert min(row.ours[0] for row in costs) > 0
    queried, opened, *planned = (row for row in found if row.unit == "s")
    assert {row.subject.n for row in (queried, opened, *planned)} == {76}, (
        "50 and 20 in tens, 16 of the sweep, minus the rounding"
    )
    assert len(planned) == 2, "a finished sweep, and another recipe"
    assert {row.wanted for row in (queried, opened, *planned)} == {at_most(1.0)}
    requests = [row for row in found if row.unit == "requests"]
    assert [row.verdict for row in requests] == ["pass"] * 4
    assert all(row.ours[0] > 1 for row in requests)


def test_an_exponent_is_the_slope_of_the_logarithms():
    costs = {size: {"opening": lake_costs.Cost(cpu=size**1.5, peak_mb=100.0)} for size in (10, 100, 1000)}
    *measured, growth = lake_costs.cost_rows(costs, promised=True)
    assert [row.subject.n for row in measured] == [10, 10, 100, 100, 1000, 1000]
    assert (growth.ratio, growth.verdict) == (pytest.approx(1.5), "falls short")
    assert lake_costs.fit_exponent([10, 100, 1000], [3.0, 30.0, 300.0]) == pytest.approx(1)
    assert lake_costs.fit_exponent([10, 100, 1000], [2.0, 200.0, 20_000.0]) == pytest.approx(2)


def test_files_made_from_a_template_are_those_of_their_cells(tmp_path):
    """They pass verification, and their rows hold the identity that the file names state."""
    made = Lake(tmp_path / "lake")
    points = [cell_files.checkpoint(index, 2) for index in range(4)]
    ids = cell_files.write_cells(made, points, [("text:prose", "quick@1")])
    reader = open_lake(made.uri)
    wanted = [(point.model, point.step, cell_id) for point, cell_id in zip(points, ids, strict=True)]
    assert sorted(reader.query_frame("SELECT DISTINCT model, step, cell_id FROM layers").rows()) == sorted(wanted)
    assert reader.query_frame("SELECT count(*) FROM layers").item() == len(points) * cell_files.LAYERS


def test_spectra_are_compared_in_the_same_quantities():
    """The error row shows float64 accuracy for ours and float32 accuracy for the SVD."""
    *_, errors = spectrum.rows(TINY._replace(spectrum=Knn(500, 24, rounds=1)), "cpu")
    assert errors.unit == "relative error"
    assert errors.ours[0] < 1e-13
    assert 1e-13 < errors.theirs[0] < 1e-4


def test_kernels_are_compared_with_the_larger_of_two_floors():
    """Few bytes per operation: bound by operations. Many bytes: bound by bytes."""
    assert [row.subject.dim for row in kernels.rows(TINY._replace(spectrum=Knn(500, 24, rounds=1)), "cpu")] == [24, 16]
    few, many = (kernels.roofline(1e6, n_bytes, torch.float32, "cpu")() for n_bytes in (1.0, 1e12))
    assert few.wall < 1 < many.wall


def test_layers_and_checkpoints_yield_every_row(published, monkeypatch):
    """The plain script is compared if the authors' file is installed, and skipped otherwise."""
    monkeypatch.setattr(layer, "ROUNDS", 1)
    model = Model(layers=1, dim=64, vocabulary=50, contexts=8, tokens=16, kept=8, moments=8, rounds=1)
    tiny = TINY._replace(layer=Knn(300, 16, rounds=1), widths=(16,), model=model, plain_contexts=2, authors_points=2)
    works = [row.subject.work for row in layer.rows(tiny, "cpu")]
    assert works[0].startswith("describe()")
    assert [work.rpartition(": ")[2] for work in works[1:]] == ["moments", "metrics", "total"]
    published.write_text(PUBLISHED + "calculate_anisotropy_torch = procrustes_similarity = lambda *args: 0.0\n")
    assert [row.reference for row in checkpoint.rows(tiny, "cpu")] == [BARE, PLAIN, FLOOR]
    published.unlink()
    assert [row.reference for row in checkpoint.rows(tiny, "cpu")] == [BARE, FLOOR]


def test_similarity_rows_are_its_cost_and_the_matrices_of_a_history():
    model = Model(layers=2, dim=16, vocabulary=64, contexts=8, tokens=16, kept=8, moments=8, rounds=1)
    rows = list(similarity.rows(TINY._replace(model=model, full=False), "cpu"))
    assert [row.reference for row in rows] == ["checkpoint, all metrics", "limit", "limit"]
    assert [row.subject.n for row in rows] == [512, 12, 12]
    assert all(row.verdict is None for row in rows)


@pytest.mark.slow
def test_sweeps_commit_every_task(monkeypatch):
    """The rows themselves assert that every task is committed, without Ray and on Ray."""
    monkeypatch.setattr(sweep, "ROUNDS", 1)
    rows = list(sweep.rows(TINY._replace(checkpoints=1, tasks=10), "cpu"))
    assert [row.subject.n for row in rows] == [1, 1, 1, *[10] * 4, sweep.NAPS]
    assert {row.unit for row in rows} == {"s", "MB"}
    assert rows[0].ratio > 1  # a sweep takes longer than the work inside it


@pytest.mark.parametrize("group", ["kn", ""])
def test_a_group_that_does_not_exist_is_named(group, capsys):
    with pytest.raises(SystemExit) as end:
        bench.main(["--only", group])
    assert end.value.code == 2
    assert f"no group {group!r}" in capsys.readouterr().err


@pytest.mark.parametrize("page", sorted(RESULTS.glob("*.md")), ids=lambda page: page.stem)
def test_published_results_have_the_columns_of_the_table_and_consistent_verdicts(page):
    text = page.read_text()
    assert table.head() in text
    assert page.stem[:10] in text, "the date"
    for line in text.split(table.head())[1].partition("\n\n")[0].strip().splitlines():
        *_, ratio, target, verdict = (cell.strip() for cell in line.strip("|").split("|"))
        if not target:
            assert verdict == "", line
            continue
        sense, bound, _ = target.split()
        value = float(ratio.split()[0].replace(",", ""))
        met = value <= float(bound) if sense == "<=" else value >= float(bound)
        assert verdict == ("pass" if met else "falls short"), line
