"""The tour as a program, and as the notebook generated from it."""

import json
import subprocess
import sys

import altair as alt
import pytest

from pipeline.report import FIGURES
from tests.conftest import ROOT
from tests.support.notebook import NOTEBOOK, SCRIPT, render

OF_POPULATIONS = {"population-depth", "population-training"}
"""Figures that need other runs of one size."""
OF_RECORDS = {"similarity-layers", "similarity-steps", "settling"}
"""Figures that need similarity records, which the lake of `make demo` has not."""


@pytest.mark.slow
def test_it_runs_as_a_program_and_writes_the_figures(uri, tmp_path):
    (tmp_path / "lake").symlink_to(uri)
    lake = str(tmp_path / "lake")
    done = subprocess.run(
        [sys.executable, "-m", "jobs.tour", lake], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert {path.stem for path in tmp_path.glob("*.svg")} == set(FIGURES) - OF_POPULATIONS
    assert "Anisotropy peaks" in done.stdout


def test_the_notebook_is_the_script():
    assert json.loads(NOTEBOOK.read_text()) == render(SCRIPT.read_text()), "run python -m tests.support.notebook"


def test_the_notebooks_cells_run_in_order_and_draw_the_figures(uri, tmp_path, monkeypatch):
    (tmp_path / "shapelake-demo").mkdir()
    (tmp_path / "shapelake-demo" / "lake").symlink_to(uri)
    monkeypatch.chdir(tmp_path)
    cells = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
    names: dict[str, object] = {"__name__": "__main__"}
    charts = []
    for cell in cells:
        body = "".join(cell["source"])
        if body.startswith("show("):
            charts.append(eval(body, names))
        else:
            exec(compile(body, cell["id"], "exec"), names)
    assert len(charts) == len(FIGURES.keys() - OF_POPULATIONS - OF_RECORDS)
    assert all(isinstance(chart, alt.TopLevelMixin) for chart in charts)
