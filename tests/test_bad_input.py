"""Invalid input: each error takes two lines (what was asked, found, to do), and a run finishes the rest."""

import json
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.support import stub_checkpoints as stub
from tests.support import tiny_checkpoints as tiny


def weights(folder: Path) -> Path:
    return folder / "model.safetensors"


def truncate(folder: Path) -> None:
    weights(folder).write_bytes(weights(folder).read_bytes()[:-1000])


def lose_a_shard(folder: Path) -> None:
    tensors = load_file(weights(folder))
    names = sorted(tensors)
    save_file({name: tensors[name] for name in names[:5]}, folder / "model-00001-of-00002.safetensors")
    shards = {name: f"model-0000{1 + (i >= 5)}-of-00002.safetensors" for i, name in enumerate(names)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": shards}))
    weights(folder).unlink()


def lose_a_layer(folder: Path) -> None:
    tensors = load_file(weights(folder))
    save_file({name: t for name, t in tensors.items() if ".layers.1." not in name}, weights(folder), {"format": "pt"})


def poison(folder: Path) -> None:
    tensors = load_file(weights(folder))
    tensors["gpt_neox.layers.0.mlp.dense_h_to_4h.weight"][3, 4] = torch.nan
    save_file(tensors, weights(folder), {"format": "pt"})


def lose_the_tokenizer(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()


def empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


BREAKAGES = {
    1: (truncate, "model.safetensors"),
    2: (lose_a_shard, "model-00002-of-00002.safetensors"),
    3: (lose_a_layer, "layers.1"),
    4: (poison, "mlp.dense_h_to_4h.weight"),
    5: (lose_the_tokenizer, "tokenizer"),
    6: (empty, "config.json"),
}


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """Sweep over steps 0 and 7, which are sound, and 1 to 6, each broken as in BREAKAGES."""
    root = tiny.history(tmp_path / "runs", [0, *BREAKAGES, 7])
    for step, (breakage, _) in BREAKAGES.items():
        breakage(root / f"step{step}")
    return tiny.sweep_file(tmp_path, root)


def test_bad_checkpoints_are_listed_with_cause_and_command_and_the_others_finish(broken, tmp_path, shapelake):
    from pipeline import lake as lakes

    lake = tmp_path / "lake"
    code, out, _ = shapelake("run", broken, "--lake", lake, "--backend", "inline")
    assert code == 1
    rows = lakes.open_lake(lake).sql("select distinct step from layers order by step").fetchall()
    assert rows == [(0,), (7,)], f"rows of the sound checkpoints only:\n{out}"

    code, listed, _ = shapelake("status", "--lake", lake, "--failed", "--json")
    failures = {failure["label"]: failure for failure in json.loads(listed)}
    assert code == 0
    assert set(failures) == {f"runs@step{step}" for step in BREAKAGES}
    _, summary, _ = shapelake("status", "--lake", lake)
    (line,) = (line for line in summary.splitlines() if "shapelake status --failed" in line)
    assert "6 failures" in line
    assert line.endswith(f"shapelake status --failed --lake {lake}"), "a command to copy"
    for step, (_, cause) in BREAKAGES.items():
        failure = failures[f"runs@step{step}"]
        assert cause in failure["message"], failure
        assert len(failure["message"].splitlines()) <= 2, failure
        assert f"runs@step{step}" in out
        assert failure["command"] in out
        assert failure["command"].startswith("shapelake ")
        assert failure["class"] == "permanent"

    code, _, err = shapelake(*shlex.split(failures["runs@step4"]["command"])[1:])
    assert code == 1
    assert failures["runs@step4"]["message"] in err, "the command shows the same failure"

    code, out, _ = shapelake("run", broken, "--lake", lake, "--backend", "inline")
    assert code == 1, "a sweep with wanted cells in quarantine has not succeeded"
    assert "6 quarantined" in out


def test_a_corpus_of_ten_bytes_says_both_numbers(tmp_path, shapelake):
    root = tiny.history(tmp_path / "runs", [0])
    path = tiny.sweep_file(tmp_path, root)
    (tmp_path / "prose.txt").write_text("ten bytes.")
    code, out, _ = shapelake("run", path, "--lake", tmp_path / "lake", "--backend", "inline")
    needed = tiny.RECIPE["contexts"] * tiny.RECIPE["groups"] * tiny.RECIPE["context_tokens"]
    assert code == 1
    assert f"{needed}" in out.replace(",", "")
    assert " 10 " in out.replace(",", "")


@pytest.mark.parametrize(
    ("changes", "fact"),
    [
        ({"recipes": "quick@1"}, "did you mean 'recipe'"),
        ({"recipe": "quik@1"}, "did you mean 'quick@1'"),
        ({"recipe": {**tiny.RECIPE, "contexs": 3}}, "did you mean 'contexts'"),
        ({"recipe": {**tiny.RECIPE, "kept_per_context": 64}}, "64 positions exceed context_tokens (32)"),
        ({"resources": {"gpu": 1}}, "did you mean 'gpus'"),
        ({"corpora": [{"enwik8-rw": "x"}]}, "did you mean 'enwik8-raw'"),
        ({"corpora": [{"text": "absent.txt"}]}, "absent.txt"),
        ({"checkpoints": [{"local": "absent"}]}, "absent"),
        ({"steps": "log3"}, "--steps log3"),
        ({"steps": "every:7"}, "every:7"),
        ({"models": "gpt*"}, "gpt*"),
        *(({"recipe": wrong}, "name@version") for wrong in (3, None, [1])),
    ],
    ids=str,
)
def test_a_wrong_sweep_is_refused_in_two_lines(tmp_path, shapelake, changes, fact):
    root = stub.history(tmp_path / "runs", [5, 11])
    assert_refused(shapelake("plan", tiny.sweep_file(tmp_path, root, **changes), "--lake", tmp_path / "lake"), fact)


def assert_refused(result: tuple[int, str, str], fact: str) -> None:
    """Check for exit code 2 and an error of two lines that contains `fact`."""
    code, _, err = result
    assert code == 2, err
    assert fact in err
    assert err.startswith("error: ")
    assert len(err.splitlines()) == 2, err


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        ("a=[", "--set a=["),
        ("name=2026-13-45", "--set name=2026-13-45"),
        ("recipe=3", "name@version"),
        ("recipe=null", "name@version"),
        ("recipe=[1]", "name@version"),
        ("recipe", "--set recipe"),
        ("name.x=1", "name is 'test'"),
    ],
)
def test_a_wrong_set_is_refused_in_two_lines(tmp_path, shapelake, text, fact):
    root = stub.history(tmp_path / "runs", [0])
    assert_refused(
        shapelake("plan", tiny.sweep_file(tmp_path, root), "--lake", tmp_path / "lake", "--set", text),
        fact,
    )


@pytest.mark.parametrize("name", ["", "..x", ".", "jobs/", "jobs.absent", "absent.yaml", "a b"])
def test_a_sweep_that_is_neither_file_nor_module_is_refused_in_two_lines(tmp_path, shapelake, name):
    assert_refused(shapelake("plan", name, "--lake", tmp_path / "lake"), name or repr(name))


def test_a_file_that_is_no_yaml_is_refused_in_two_lines(tmp_path, shapelake):
    path = tmp_path / "sweep.yaml"
    for content in (b"name: [", b"\xff\xfe", b"name: 2026-13-45"):
        path.write_bytes(content)
        assert_refused(shapelake("plan", path, "--lake", tmp_path / "lake"), str(path))


@pytest.mark.parametrize("recipe", ["{", "quik@1", "3", "{name: mine}", "2026-13-45"])
def test_a_wrong_recipe_of_measure_is_refused_in_two_lines(tmp_path, shapelake, recipe):
    root = stub.history(tmp_path / "runs", [0])
    words = ("measure", root / "step0", "--corpus", "random-uniform", "--recipe", recipe)
    assert_refused(shapelake(*words), recipe)


READING = {"query": ("query", "select 1"), "status": ("status",)}


@pytest.mark.parametrize("words", READING.values(), ids=READING)
def test_reading_a_lake_that_is_not_there_is_refused_in_two_lines(tmp_path, shapelake, words):
    (tmp_path / "file").touch()
    for lake in (tmp_path / "absent", tmp_path / "file", "", *UNSUPPORTED_URIS):
        assert_refused(shapelake(*words, "--lake", lake), str(lake) or "lake")
    assert not (tmp_path / "absent").exists()


UNSUPPORTED_URIS = ("ftp://host/lake", "hdfs://host/lake")


@pytest.mark.parametrize("command", ["plan", "run"])
def test_a_lake_to_be_written_may_be_absent_but_not_of_another_kind(tmp_path, shapelake, command):
    root = stub.history(tmp_path / "runs", [0])
    sweep = tiny.sweep_file(tmp_path, root)
    (tmp_path / "file").touch()
    for lake in (tmp_path / "file", "", *UNSUPPORTED_URIS):
        assert_refused(shapelake(command, sweep, "--lake", lake), str(lake) or "lake")
    code, out, _ = shapelake("plan", sweep, "--lake", tmp_path / "absent")
    assert (code, "1 to run" in out) == (0, True)


def test_a_history_without_checkpoints_is_refused(tmp_path, shapelake):
    (tmp_path / "runs").mkdir()
    code, _, err = shapelake("plan", tiny.sweep_file(tmp_path, tmp_path / "runs"), "--lake", tmp_path / "lake")
    assert (code, len(err.splitlines())) == (2, 2)
    assert str(tmp_path / "runs") in err


def test_a_lake_that_cannot_be_written_is_said_in_two_lines(tmp_path, shapelake):
    root = tiny.history(tmp_path / "runs", [0])
    (tmp_path / "file").write_text("in the way")
    lake = tmp_path / "file" / "lake"
    code, _, err = shapelake("run", tiny.sweep_file(tmp_path, root), "--lake", lake, "--backend", "inline")
    assert code == 1
    assert str(lake) in err
    assert len(err.strip().splitlines()) == 2, err


def test_a_recipe_that_changed_under_its_version_is_refused_with_the_change(tmp_path, shapelake):
    root = tiny.history(tmp_path / "runs", [0])
    lake = tmp_path / "lake"
    code, *_ = shapelake("run", tiny.sweep_file(tmp_path, root), "--lake", lake, "--backend", "inline")
    assert code == 0
    changed = tiny.sweep_file(tmp_path, root, recipe={**tiny.RECIPE, "contexts": 9})
    code, _, err = shapelake("plan", changed, "--lake", lake)
    assert code == 2
    assert "contexts 8 -> 9" in err


def test_a_built_in_recipe_cannot_be_redefined(tmp_path, shapelake):
    root = tiny.history(tmp_path / "runs", [0])
    path = tiny.sweep_file(tmp_path, root, recipe="quick@1")
    code, _, err = shapelake("plan", path, "--lake", tmp_path / "lake", "--set", "recipe.contexts=3")
    assert code == 2
    assert "quick@1" in err
