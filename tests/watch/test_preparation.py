"""Start of a watch: its checks before the first checkpoint, its first lines, and no event told twice."""

import json
import re

import pytest

from pipeline.errors import UsageError
from pipeline.watch import watch_folder
from pipeline.watch.alert_rules import LayerSelection
from pipeline.watch.preparation import check_watch, describe_watch
from tests.support import watched_history


def test_layers_that_the_model_lacks_are_refused_before_the_first_checkpoint(tmp_path):
    folder = watched_history.write(tmp_path, 0)
    (folder / "config.json").write_text(json.dumps(watched_history.CONFIG | {"n_layer": 4}))
    config = watched_history.followed(tmp_path)
    for good in ("blocks", "all", "5", "1-4"):
        check_watch(config._replace(layers=LayerSelection.parse(good)), None)
    with pytest.raises(UsageError, match="the model has layers 0 to 5") as refused:
        check_watch(config._replace(layers=LayerSelection.parse("3-9")), None)
    assert refused.value.do == "Write blocks, all, or a range such as 1-4"
    with pytest.raises(UsageError, match="the model has layers 0 to 5"):
        check_watch(watched_history.followed(tmp_path, "id_mle@6>4"), None)


@pytest.mark.parametrize(
    ("command", "good"),
    [("./stop.sh", False), ("stopp --now", False), ("exit 7", True), ("NAME=x true", True), ("cd / && true", True)],
)
def test_a_command_that_the_shell_does_not_find_is_refused(tmp_path, command, good):
    config = watched_history.followed(tmp_path)
    if good:
        check_watch(config, command)
        return
    with pytest.raises(UsageError, match=f"the shell does not find {command.split()[0]}"):
        check_watch(config, command)


def test_it_says_what_it_follows_by_what_rule_and_what_is_there(tmp_path):
    watched_history.write(tmp_path, 0)
    said = "\n".join(describe_watch(watched_history.followed(tmp_path, "id_mle>4"), 10.0))
    for part in (str(tmp_path), "1 checkpoints there, 0 cells", "unchanged for 10 s", "random-uniform with quick@1"):
        assert part in said
    assert "alerts: id_mle@blocks>4" in said


def test_once_tells_only_what_is_new(tmp_path, monkeypatch):
    measured = watched_history.Measured(monkeypatch, lambda step: 10.0)
    config, lines = watched_history.followed(tmp_path), list[str]()
    watched_history.write(tmp_path, 0)
    assert watch_folder(config, lines.append, 0.0, once=True) == 0
    watched_history.write(tmp_path, 100)
    assert watch_folder(config, lines.append, 0.0, once=True) == 0
    assert [line.split()[0] for line in lines] == ["checkpoint-0", "checkpoint-100"]
    assert measured.steps == [0, 100]


def test_lines_of_the_command_begin_with_their_time(tmp_path, monkeypatch, shapelake):
    watched_history.Measured(monkeypatch, lambda step: 10.0)
    watched_history.write(tmp_path, 0)
    words = ("watch", tmp_path, "--corpus", "random-uniform", "--once", "--every", 0, "--nice", 0)
    code, out, _ = shapelake(*words)
    assert code == 0
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ  ", line) for line in out.splitlines())
    assert "watching" in out.splitlines()[0]
    assert "checkpoint-0  id_twonn 10" in out.splitlines()[-1]
    _, out, _ = shapelake(*words, "--json")
    assert {tuple(json.loads(line)) for line in out.splitlines()} == {("time", "message")}
