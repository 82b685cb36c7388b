"""Tables of the terminal: no number is cut in any width, and no row is blank."""

import pytest

from pipeline.lake import Lake
from pipeline.render import tables
from tests.support import finding_rows, lake_rows

SENTENCE = "Anisotropy rises to an interior maximum and falls again towards the last block of this model."


def printed(capsys, monkeypatch, width, columns, rows):
    monkeypatch.setattr(tables, "NON_TTY_WIDTH", width)
    tables.print_rows(columns, rows)
    return [line.rstrip() for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_every_value_is_complete_in_every_width(capsys, monkeypatch, width):
    rows = [[1000 + i, 0.123456 + i, "cafe" * 8, "x"] for i in range(4)]
    words = " ".join(printed(capsys, monkeypatch, width, ["step", "anisotropy", "cell_id", "y"], rows)).split()
    assert {f"{row[1]:.6g}" for row in rows} | {"cafe" * 8, "1003"} <= set(words)


def test_a_wide_result_has_one_field_per_line(capsys, monkeypatch):
    lines = printed(capsys, monkeypatch, 26, ["step", "participation_ratio"], [[512, 3.25], [1024, None]])
    assert lines[:3] == ["row 1 of 2", "  step                 512", "  participation_ratio  3.25"]
    assert lines[-1] == "  participation_ratio"


def test_only_text_is_wrapped_and_a_sentence_never_below_60_columns(capsys, monkeypatch):
    table = printed(capsys, monkeypatch, 80, ["step", "because"], [[512, SENTENCE]])
    assert (len(table), table[1].split()[0]) == (3, "512")
    assert printed(capsys, monkeypatch, 66, ["step", "because"], [[512, SENTENCE]])[0] == "row 1 of 1"


def test_all_columns_of_a_lake_are_shown(tmp_path, shapelake):
    lake = Lake(tmp_path / "lake")
    lake_rows.commit(lake, lake_rows.checkpoint(1))
    code, out, _ = shapelake("query", "from layers order by layer", "--lake", lake.uri)
    assert (code, out.splitlines()[0]) == (0, f"row 1 of {lake_rows.LAYERS}")
    assert all(len(line.split()) <= 3 for line in out.splitlines() if not line.startswith("row"))


@pytest.mark.parametrize(
    ("sql", "found"),
    [
        ("select 1; select 2", "2 statements"),
        ("drop view layers", "DROP is not a query"),
        ("create table a as select 1", "CREATE is not a query"),
        (" -- nothing", "no statement"),
    ],
)
def test_only_one_query_is_answered(tmp_path, shapelake, sql, found):
    Lake(tmp_path / "lake").identity.begin()
    code, out, err = shapelake("query", sql, "--lake", tmp_path / "lake")
    assert (code, out, found in err, len(err.splitlines())) == (2, "", True, 2)


def test_a_query_may_end_with_a_semicolon_and_pivot(tmp_path, shapelake):
    lake = Lake(tmp_path / "lake")
    lake_rows.commit(lake, lake_rows.checkpoint(1))
    for sql in ("select 1 as a;", "describe layers", "pivot (select model, layer from layers) on model using count(*)"):
        assert shapelake("query", sql, "--lake", lake.uri)[0] == 0, sql


def test_the_dome_query_reads_both_values_at_one_layer(tmp_path, shapelake):
    values = zip((0.2, 0.9, 0.4), (0.3, 0.1, 0.35), strict=True)
    rows = [
        finding_rows.row(layer=layer, depth=layer / 2, anisotropy=with_sinks, anisotropy_no_sink=without)
        for layer, (with_sinks, without) in enumerate(values)
    ]
    lake = finding_rows.commit(tmp_path / "lake", rows)
    _, out, _ = shapelake("query", "@dome", "--lake", lake.uri, "--csv")
    names, row = (line.split(",") for line in out.splitlines())
    found = dict(zip(names, row, strict=True))
    assert (found["peak_layer"], found["peak"], found["peak_no_sink"]) == ("1", "0.9", "0.1")
    assert (found["no_sink_peak_layer"], found["no_sink_peak"]) == ("2", "0.35")
