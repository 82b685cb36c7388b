"""Commands that read or maintain a lake, and commands for published histories, through the command line."""

import json

import pytest

from pipeline import doctor
from pipeline.errors import UsageError
from pipeline.lake import Lake
from tests.hub.conftest import hub  # noqa: F401
from tests.support import lake_rows
from tests.support import tiny_checkpoints as tiny
from tests.support.stub_files import files

pytestmark = pytest.mark.filterwarnings("ignore")


def count(shapelake, lake, view="layers"):
    _, out, _ = shapelake("query", f"select count(*) n from {view}", "--lake", lake, "--json")
    return json.loads(out)[0]["n"]


def test_a_sound_lake_verifies_and_a_cell_of_it_measures_the_same_again(measured_lake, tmp_path, shapelake):
    code, out, err = shapelake("verify", "--lake", measured_lake, "--recompute", tmp_path / "sweep.yaml")
    assert (code, out) == (0, "3 cells, 0 problems\n"), err


def test_a_cell_whose_numbers_are_not_those_of_its_weights_is_reported(measured_lake, tmp_path, shapelake, monkeypatch):
    from pipeline.sweep import recompute

    truth = recompute._measured

    def wrong(cell, sweep):
        rows, records = truth(cell, sweep)
        return [row | {"anisotropy": row["anisotropy"] * 1.001} for row in rows], records

    monkeypatch.setattr(recompute, "_measured", wrong)
    code, out, _ = shapelake("verify", "--lake", measured_lake, "--recompute", tmp_path / "sweep.yaml", "--json")
    assert code == 1
    assert [problem["found"].split()[0] for problem in json.loads(out)] == ["anisotropy"] * 4


def test_a_damaged_file_is_named(measured_lake, shapelake):
    path = next(measured_lake.glob("cells/v1/**/*.parquet"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(bytes(data))
    code, out, _ = shapelake("verify", "--lake", measured_lake)
    assert code == 1
    assert path.name in out


def test_an_error_of_the_second_measurement_hides_no_problem(measured_lake, tmp_path, shapelake, monkeypatch):
    def fail(*_):
        raise UsageError("a committed cell of sweep tiny", "none is in the lake", "Run the sweep first")

    monkeypatch.setattr("pipeline.sweep.recompute.recompute_random_cell", fail)
    words = ("verify", "--lake", measured_lake, "--recompute", tmp_path / "sweep.yaml", "--json")
    assert shapelake(*words)[0] == 2
    min(measured_lake.glob("cells/v1/**/*.parquet")).write_bytes(b"damaged")
    code, out, _ = shapelake(*words)
    assert (code, len(json.loads(out))) == (1, 2)
    assert json.loads(out)[-1]["found"] == "a committed cell of sweep tiny: none is in the lake"
    assert shapelake(*words[:4], tmp_path / "missing.yaml")[0] == 2, "a wrong option is no problem of the lake"


def test_a_snapshot_changes_no_answer_and_an_old_one_can_go(measured_lake, shapelake):
    ask = ("query", "from layers order by cell_id, layer", "--lake", measured_lake, "--json")
    before = shapelake(*ask)
    assert shapelake("compact", "--lake", measured_lake)[1].startswith("3 cells, 12 rows")
    assert shapelake(*ask) == before
    code, out, err = shapelake("gc", "--lake", measured_lake)
    assert (code, out) == (0, "")
    assert err.startswith("0 files")


def test_a_cell_is_hidden_and_shown_again(measured_lake, shapelake):
    cell = sorted(Lake(measured_lake).committed_cell_ids())[0]
    assert shapelake("quarantine", cell, "--reason", "wrong text", "--lake", measured_lake)[0] == 0
    assert count(shapelake, measured_lake) == 8
    assert shapelake("quarantine", cell, "--release", "--lake", measured_lake)[0] == 0
    assert count(shapelake, measured_lake) == 12
    assert shapelake("quarantine", cell, "--release", "--lake", measured_lake)[0] == 2
    assert shapelake("quarantine", "f" * 32, "--reason", "x", "--lake", measured_lake)[0] == 2
    assert shapelake("quarantine", cell, "--lake", measured_lake)[0] == 2


def test_a_damaged_cell_can_be_hidden_by_the_start_of_its_id_and_is_then_silent(measured_lake, shapelake):
    path = min(measured_lake.glob("cells/v1/*/*.parquet"))
    path.write_bytes(b"damaged")
    query = ("query", "select count(distinct cell_id) n from layers", "--csv", "--lake", measured_lake)
    assert shapelake(*query)[0] == 1
    code, out, _ = shapelake("quarantine", path.stem[:8], "--reason", "broken disk", "--lake", measured_lake)
    assert (code, out) == (0, f"{path.stem} is hidden\n")
    assert shapelake(*query) == (0, "n\n2\n", "")
    code, out, err = shapelake("status", "--lake", measured_lake)
    assert (code, err) == (0, "")
    assert f"quarantined {path.stem[:8]} (unreadable cell) by a person" in out
    assert "broken disk" in out
    assert shapelake("verify", "--lake", measured_lake)[0] == 1, "the damage remains a problem"


@pytest.mark.parametrize(
    ("prefix", "found"), [("abcd", "2 cells match"), ("eee", "Give at least 4"), ("", "3 cells"), ("ffff", "no")]
)
def test_a_short_id_must_be_that_of_one_cell(tmp_path, shapelake, prefix, found):
    lake = Lake(tmp_path / "lake")
    for step, cell_id in enumerate(("abcd1" + 27 * "0", "abcd2" + 27 * "0", "e" * 32)):
        lake_rows.commit(lake, lake_rows.checkpoint(step), cell_id=cell_id)
    code, _, err = shapelake("quarantine", prefix, "--reason", "x", "--lake", lake.uri)
    assert (code, found in err, lake.quarantined_cell_ids()) == (2, True, set())


def test_findings_report_and_figure_of_a_lake(measured_lake, tmp_path, shapelake):
    code, out, err = shapelake("findings", "trust", "--lake", measured_lake, "--json")
    assert code == 0, err
    assert set(json.loads(out)) == {"trust"}
    page, drawn = tmp_path / "r.html", tmp_path / "f.svg"
    assert shapelake("report", "--lake", measured_lake, "-o", page)[:2] == (0, f"{page}\n")
    assert "<html" in page.read_text()
    assert shapelake("figure", "id-training", "--lake", measured_lake, "-o", drawn)[0] == 0
    assert "<svg" in drawn.read_text()
    code, _, err = shapelake("figure", "id-trainin", "--lake", measured_lake, "-o", drawn)
    assert (code, "did you mean 'id-training'" in err) == (2, True)


def test_the_doctor_finds_what_is_broken(tmp_path, shapelake, monkeypatch):
    code, out, _ = shapelake("doctor", "--lake", tmp_path / "lake", "--json")
    states = {check["name"]: check["state"] for check in json.loads(out)}
    assert (code, states["TwoNN"], states["lake"]) == (0, "fine", "note")
    monkeypatch.setattr(doctor, "version", lambda name: "1.0")
    code, out, _ = shapelake("doctor")
    assert code == 1
    assert "faiss-cpu and faiss-gpu" in out


def test_catalog_and_audit_of_a_repo(hub, tmp_path, shapelake):  # noqa: F811
    repo = hub.repo("lab/small")
    for step in (0, 1, 2, 1000):
        repo.commit(files(f"weights {step % 1000}"), branch=f"step{step}")
    code, out, err = shapelake("catalog", "lab/small", "--json")
    assert code == 0, err
    assert [line["step"] for line in json.loads(out)] == [0, 1, 2, 1000]
    code, out, _ = shapelake("audit", "lab/small", "--lake", tmp_path / "lake")
    assert code == 1
    assert "step0" in out
    assert "the end of training" in out
    code, out, _ = shapelake("query", "@audit", "--lake", tmp_path / "lake", "--json")
    assert code == 0
    assert "step0" in out
    code, _, err = shapelake("audit", "lab/smal")
    assert (code, "lab/smal" in err) == (2, True)
    assert shapelake("catalog")[0] == 0


READERS = {
    "status": ("status",),
    "verify": ("verify",),
    "query": ("query", "from cells"),
    "findings": ("findings",),
    "report": ("report",),
    "figure": ("figure", "id-training", "-o", "x.svg"),
    "compact": ("compact",),
    "gc": ("gc",),
    "quarantine": ("quarantine", "a" * 32, "--release"),
    "export": ("export", "--to", "tensorboard", "boards"),
    "catalog": ("catalog", "lab/small"),
}


@pytest.mark.parametrize("command", READERS)
def test_a_path_without_a_lake_is_wrong_use(tmp_path, monkeypatch, shapelake, command):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "config.json").write_text("{}")
    before = sorted(tmp_path.rglob("*"))
    for lake, found in (("typo", "no such folder"), ("empty", "empty"), ("checkpoints", "holds config.json")):
        code, out, err = shapelake(*READERS[command], "--lake", lake)
        assert (code, out, len(err.splitlines())) == (2, "", 2), lake
        assert f"lake {lake}: " in err
        assert found in err
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_of_other_files_does_not_become_a_lake(tmp_path, shapelake):
    root = tiny.history(tmp_path / "runs", [0])
    sweep, before = tiny.sweep_file(tmp_path, root), sorted(tmp_path.rglob("*"))
    words = ("--corpus", "random-uniform", "--recipe", json.dumps(tiny.RECIPE), "--lake", root)
    for command in (
        ("plan", sweep, "--lake", root),
        ("run", sweep, "--lake", root, "--backend", "inline"),
        ("measure", root / "step0", *words),
        ("audit", root, "--lake", root),
        ("watch", root, *words, "--once"),
    ):
        code, _, err = shapelake(*command)
        assert (code, "no lake in this folder, which holds step0" in err) == (2, True), command[0]
        assert f"{root}/lake" in err
    assert sorted(tmp_path.rglob("*")) == [*before]


def test_the_doctor_leaves_nothing_where_it_checks_a_store(tmp_path, shapelake):
    for name in ("typo", "deep/er/typo"):
        code, out, _ = shapelake("doctor", "--lake", tmp_path / name)
        assert (code, "no lake yet (no such folder)" in out) == (0, True)
    assert list(tmp_path.iterdir()) == []
