"""The tour runs as a program, and every cell of it as a notebook runs them."""

import subprocess
import sys

import altair as alt
import pytest

from pipeline.report import FIGURES
from tests.conftest import ROOT


@pytest.mark.slow
def test_it_runs_as_a_program_and_writes_the_figures(uri, tmp_path):
    (tmp_path / "lake").symlink_to(uri)
    lake = str(tmp_path / "lake")
    done = subprocess.run(
        [sys.executable, "-m", "jobs.tour", lake], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert {path.stem for path in tmp_path.glob("*.svg")} == set(FIGURES)
    assert "Anisotropy peaks inside" in done.stdout


def test_its_cells_run_in_order_and_the_last_of_each_draws(uri, tmp_path, monkeypatch):
    (tmp_path / "shapelake-demo").mkdir()
    (tmp_path / "shapelake-demo" / "lake").symlink_to(uri)
    monkeypatch.chdir(tmp_path)
    cells = (ROOT / "jobs" / "tour.py").read_text().split("# %%")[1:]
    names: dict[str, object] = {"__name__": "__main__"}
    charts = []
    for cell in cells:
        body = "#" + cell
        lines = body.strip().splitlines()
        if lines[-1].startswith("show("):
            charts.append(eval(lines[-1], names))
        else:
            exec(compile(body, "cell", "exec"), names)
    assert len(charts) == len(FIGURES)
    assert all(isinstance(chart, alt.TopLevelMixin) for chart in charts)
