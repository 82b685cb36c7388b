"""Documentation of metrics, flags and status through the command line."""

import json

import pytest

from pipeline import render
from pipeline.columns import FLAGS
from tests.support import lake_rows


@pytest.mark.parametrize("word", FLAGS)
def test_every_flag_is_explained(shapelake, word):
    code, out, _ = shapelake("metrics", word, "--json")
    (found,) = json.loads(out)
    assert (code, found["name"], found["group"]) == (0, word, "flags")
    assert found["meaning"].startswith(FLAGS[word].meaning)


def test_flags_and_status_are_explained(shapelake):
    _, out, _ = shapelake("metrics", "flags")
    assert {line for line in out.splitlines() if line and not line.startswith(" ")} == {"flags", *FLAGS}
    _, out, _ = shapelake("metrics", "status")
    assert all(word in out for word in ("ok", "degenerate", "nonfinite"))


def test_a_column_whose_null_a_flag_explains_is_named(shapelake):
    _, out, _ = shapelake("metrics", "no_lm_head")
    assert "all of loss" in out


def test_measured_layers_say_what_their_errors_and_flags_are(capsys):
    point = lake_rows.checkpoint(1)
    rows = lake_rows.rows(lake_rows.cell(point), "c" * 32, flags=["few_points", "text_stack"], anisotropy_se=0.01)
    render.print_layers([row | {"loss": None} for row in rows])
    out = capsys.readouterr().out
    assert "± one standard error" in out
    assert f"few_points: {FLAGS['few_points'].meaning}\n" in out
    assert out.count("text_stack: ") == 1
