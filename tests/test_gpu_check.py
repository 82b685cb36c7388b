"""GPU check: each part is kept whatever happens to the next, and what is missing is named. No GPU is needed."""

import json
import sys
import textwrap

import pytest

from jobs.bench.comparison import Comparison, Subject, at_least, at_most
from jobs.gpu_check import __main__ as gpu_check
from jobs.gpu_check import parts
from jobs.gpu_check.page import format_page
from jobs.gpu_check.parts import PARTS, Part, PartResult, run_part

BARE_ROW = Comparison(
    Subject("measure", "checkpoint", 1000, 8), "bare forward pass", "s", [1.1], [1.0], at_most(1.15)
).to_json()
FLOOR_ROW = Comparison(
    Subject("measure", "bare forward pass", 1000, 8),
    "2 x parameters x tokens at the measured matmul rate",
    "s",
    [1.0],
    [0.4],
    at_most(1 / 0.45),
).to_json()
KNN_ROW = Comparison(Subject("knn", "k-NN", 10, 4), "limit", "s", [0.5], [0.25], at_most(1.0)).to_json()


def scripted(monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Let every part run this script; its first argument is the JSON file of the part."""
    code = textwrap.dedent(script)
    monkeypatch.setattr(parts, "_command", lambda part, device, quick, written: [sys.executable, "-c", code, written])


def write_rows(rows: list[dict]) -> str:
    return f"import json, sys; open(sys.argv[1], 'w').write(json.dumps({{'rows': {rows!r}}}))\n"


def test_limits_add_up_to_eight_minutes():
    assert sum(part.limit_s for part in PARTS) <= 480
    assert PARTS[0].name == "tests"


@pytest.mark.parametrize(
    ("after", "status"), [("", "passed"), ("sys.exit(3)", "failed"), ("import time; time.sleep(60)", "cut off")]
)
def test_rows_measured_before_the_end_of_a_part_are_kept(monkeypatch, tmp_path, after, status):
    scripted(monkeypatch, write_rows([KNN_ROW]) + f"print('last words', flush=True)\n{after}")
    result = run_part(Part("k-NN", 3, ("sys",), ("knn",)), "cpu", True, tmp_path)
    assert (result.status, result.rows) == (status, [KNN_ROW])
    assert "last words" in result.summary
    assert list(tmp_path.iterdir()) == []


def test_a_part_without_its_packages_is_skipped_and_names_them(monkeypatch, tmp_path):
    scripted(monkeypatch, "raise SystemExit(1)")
    result = run_part(Part("FAISS", 3, ("sys", "no_such_module"), ("engines",)), "cpu", True, tmp_path)
    assert (result.status, result.summary) == ("skipped", "not installed: no_such_module")


@pytest.mark.parametrize(("output", "status"), [("3 passed", "passed"), ("9 skipped", "skipped")])
def test_a_run_of_skipped_tests_is_no_pass(monkeypatch, tmp_path, output, status):
    scripted(monkeypatch, f"print('{output} in 1 s')")
    assert run_part(Part("tests", 3, ("sys",)), "cpu", True, tmp_path).status == status


def test_files_are_complete_after_each_part(monkeypatch, tmp_path):
    """When the second part starts, the first is in both files; a failing part makes the exit code 1."""
    seen = []

    def run(part, device, quick, folder):
        if part.name == "kernels":
            seen.append([found["name"] for found in json.loads((tmp_path / "gpu-check.json").read_text())["parts"]])
            assert "| k-NN | passed | 1 |" in (tmp_path / "gpu-check.md").read_text()
        return PartResult(part.name, "failed" if part.name == "kernels" else "passed", 1.0, "x", [])

    monkeypatch.setattr(gpu_check, "run_part", run)
    assert gpu_check.main(["--device", "cpu", "--out", str(tmp_path)]) == 1
    assert seen == [["tests", "decoder", "k-NN", "spectra"]]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gpu-check.json", "gpu-check.md"]


def test_without_a_gpu_two_lines_say_what_to_do(capsys):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    assert gpu_check.main([]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_the_page_states_rate_utilisation_share_and_missed_targets():
    about = {
        **dict.fromkeys(("date", "processor", "python", "gpu", "cuda"), "x"),
        **dict.fromkeys(("cores", "threads", "memory_gib", "load_average"), 1),
        "versions": {},
    }
    results = [
        PartResult("decoder", "passed", 2.0, "", [BARE_ROW, FLOOR_ROW]),
        PartResult("k-NN", "cut off", 100.0, "stopped after 100 s", [KNN_ROW]),
        PartResult("FAISS", "skipped", 0.0, "not installed: faiss", []),
    ]
    page = format_page(about, ["faiss"], results)
    assert "909 tokens/s; bare forward pass: 1,000 tokens/s; metrics and capture: 10% on top" in page
    assert "utilisation of the bare pass: 40%" in page
    assert "Targets: 1 met, 2 missed" in page
    assert "k-NN, N = 10: 2, target <= 1." in page
    assert "skipped (not installed: faiss)" in page
    assert "stopped after 100 s" in page


def test_comparisons_survive_json():
    for row in (BARE_ROW, KNN_ROW, Comparison(Subject("a", "w", 1), "r", "MB", [1.0], [2.0], at_least()).to_json()):
        assert Comparison.from_json(row).to_json() == row
