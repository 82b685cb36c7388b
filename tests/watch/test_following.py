"""Writers that stall, crash, rotate and write out of order; watches that are killed and started again."""

import json
import os
import shutil

import pytest

from pipeline.lake import Lake, Tombstone, open_lake
from pipeline.watch import watch_folder
from pipeline.watch.alerts import list_undelivered, record_delivery
from pipeline.watch.checkpoint_folder import REQUESTS_FOLDER
from pipeline.watch.follower import Follower
from pipeline.watch.notifier import Notifier
from tests.watch import made

STEADY, JUMP = (10.0, 10.1, 9.9, 10.0, 10.1, 9.9), 20.0
TO_ALERT = (0, 100, 200, 300, 600)


@pytest.fixture
def measured(monkeypatch):
    """Dimension 10 or so, but 20 from step 600 on."""
    return made.Measured(monkeypatch, lambda step: JUMP if step >= 600 else STEADY[step // 100])


def looks(follower: Follower, times: int = 2) -> list[str]:
    """What so many looks tell, the alerts too."""
    told = [one for _ in range(times) for one in follower.poll()]
    return [line for one in told for line in (one.line, *map(str, one.alerts))]


def history(root, *steps):
    for step in steps:
        made.write(root, step)
    return root


def test_a_complete_checkpoint_is_measured_once_and_told_in_one_line(tmp_path, measured):
    follower = Follower(made.followed(history(tmp_path, 0)))
    assert looks(follower, 1) == []  # it may still be growing
    (line,) = looks(follower, 3)
    assert line == "checkpoint-0  id_twonn 10  anisotropy -  loss 2.5"
    assert measured.steps == [0]


def test_a_writer_that_stalls_is_waited_for(tmp_path, measured):
    follower = Follower(made.followed(tmp_path))
    for size in (0, 30, 100, 100, 100):
        made.write(tmp_path, 0, size)
        assert looks(follower, 1) == []
    assert follower.list_pending() == ["checkpoint-0"]
    made.write(tmp_path, 0)
    assert len(looks(follower)) == 1
    assert follower.list_pending() == []


def test_a_save_that_crashed_holds_up_no_other_and_is_taken_when_written_anew(tmp_path, measured):
    made.write(tmp_path, 100, size=50)
    history(tmp_path, 0, 200)
    follower = Follower(made.followed(tmp_path))
    looks(follower, 3)
    assert measured.steps == [0, 200]
    made.write(tmp_path, 100)
    looks(follower)
    assert measured.steps == [0, 200, 100]


def test_a_checkpoint_rotated_away_is_skipped_even_while_it_is_measured(tmp_path, measured):
    history(tmp_path, 0, 100, 200)
    follower = Follower(made.followed(tmp_path))
    looks(follower, 1)
    shutil.rmtree(tmp_path / "checkpoint-0")

    def rotate(step):
        if step == 100:
            shutil.rmtree(tmp_path / "checkpoint-100")
            raise FileNotFoundError("checkpoint-100/model.safetensors")

    measured.before = rotate
    assert len(looks(follower)) == 1
    assert measured.steps == [200]


def test_one_written_anew_with_other_weights_is_another_measurement(tmp_path, measured):
    follower = Follower(made.followed(history(tmp_path, 0)))
    looks(follower)
    (tmp_path / "checkpoint-0" / "model.safetensors").write_bytes(made.weights(7))
    assert len(looks(follower)) == 1
    (tmp_path / "checkpoint-0" / "optimizer.pt").write_bytes(b"late")
    assert looks(follower) == []
    assert measured.steps == [0, 0]


def test_what_is_written_out_of_order_is_judged_by_what_came_before_it_in_training(tmp_path, measured):
    follower = Follower(made.followed(history(tmp_path, 0, 100, 200, 300, 600, 700), "id_twonn>5"))
    first = looks(follower)
    assert [line for line in first if line.startswith("ALERT")] == [
        "ALERT id_twonn@blocks>5 at checkpoint-600: 20, +100.0 standard errors",
        "ALERT id_twonn@blocks>5 at checkpoint-700: 20, +67.4 standard errors",  # (20 - 10) / (1.4826 x 0.1)
    ]
    history(tmp_path, 400)
    (late,) = looks(follower)
    assert late.startswith("checkpoint-400  id_twonn 10.1 (+1.0 se)")  # 600 is in the lake, but not in its past


def test_a_restart_measures_nothing_again_and_tells_no_alert_twice(tmp_path, measured):
    of = made.followed(history(tmp_path, *TO_ALERT), "id_twonn>5")
    assert sum(line.startswith("ALERT") for line in looks(Follower(of))) == 1
    again = looks(Follower(of))
    assert len(again) == 5
    assert not any(line.startswith("ALERT") for line in again)
    assert measured.steps == list(TO_ALERT)


def test_an_alert_that_a_killed_watch_owed_is_told_by_the_next(tmp_path, measured, monkeypatch):
    of = made.followed(history(tmp_path, *TO_ALERT), "id_twonn>5")
    follower = Follower(of)
    with monkeypatch.context() as patched:
        patched.setattr(
            "pipeline.watch.follower.compare_with_history", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        for _ in range(5):  # killed after each commit
            with pytest.raises(KeyboardInterrupt):
                looks(follower)
    assert measured.steps == list(TO_ALERT)
    assert sum(line.startswith("ALERT") for line in looks(Follower(of))) == 1
    assert len(measured.steps) == 5


def test_a_checkpoint_that_cannot_be_measured_is_told_once_and_holds_up_no_other(tmp_path, measured):
    def refuse(step):
        if step == 0:
            raise OSError("a disk that cannot be read")

    measured.before = refuse
    follower = Follower(made.followed(history(tmp_path, 0, 100)))
    assert [line.split()[0] for line in looks(follower, 4)] == ["checkpoint-0:", "checkpoint-100"]


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), ValueError("no rows"), IndexError("7")])
def test_whatever_a_measurement_raises_is_told_once_with_its_name(tmp_path, measured, error):
    def fail(step):
        if step == 0:
            raise error

    measured.before = fail
    follower = Follower(made.followed(history(tmp_path, 0, 100)))
    first, second = looks(follower, 4)
    assert first == f"checkpoint-0: {type(error).__name__}: {error}"
    assert second.startswith("checkpoint-100  ")


def test_a_folder_that_is_removed_is_told_once_and_may_come_back(tmp_path, measured):
    of = made.followed(history(tmp_path / "run", 0))._replace(lake=Lake(tmp_path / "lake"))
    follower = Follower(of)
    looks(follower)
    shutil.move(tmp_path / "run", tmp_path / "away")
    assert looks(follower, 3) == [f"{tmp_path / 'run'}: cannot be read: No such file or directory"]
    assert follower.list_pending() == []
    shutil.move(tmp_path / "away", tmp_path / "run")
    history(tmp_path / "run", 100)
    assert [line.split()[0] for line in looks(follower)] == ["checkpoint-100"]


@pytest.mark.parametrize("flag", ["nonfinite_loss", "nonfinite_rows"])
def test_nan_and_infinity_are_said_in_the_line(tmp_path, measured, flag):
    measured.flags[600] = [flag]
    *_, before, last = looks(Follower(made.followed(history(tmp_path, *TO_ALERT))))
    assert last.endswith(f"  NaN or infinity ({flag})")
    assert "NaN" not in before


def request(root, name):
    (root / REQUESTS_FOLDER).mkdir(exist_ok=True)
    (root / REQUESTS_FOLDER / name).touch()
    return root / REQUESTS_FOLDER / name


def test_a_stale_request_is_dropped_and_takes_nothing(tmp_path, measured):
    follower = Follower(made.followed(tmp_path))
    gone, early = request(tmp_path, "checkpoint-7"), request(tmp_path, "checkpoint-0")
    history(tmp_path, 0)
    os.utime(early, ns=(0, 0))  # asked before it was written anew
    assert looks(follower, 1) == []
    assert not gone.exists()
    assert not early.exists()
    assert len(looks(follower, 1)) == 1
    settled = request(tmp_path, "checkpoint-0")
    assert looks(follower, 1) == []
    assert not settled.exists()


def test_a_requested_checkpoint_is_taken_at_the_first_look(tmp_path, measured):
    follower = Follower(made.followed(history(tmp_path, 0)))
    asked = request(tmp_path, "checkpoint-0")
    assert len(looks(follower, 1)) == 1
    assert not asked.exists()


def test_the_lake_has_the_history_of_a_folder_that_rotates(tmp_path, measured):
    of = made.followed(tmp_path)
    follower = Follower(of)
    for step in (0, 100, 200):
        history(tmp_path, step)
        looks(follower)
        shutil.rmtree(tmp_path / f"checkpoint-{step}")
    frame = open_lake(of.lake.uri).query_frame("SELECT DISTINCT step, model FROM layers ORDER BY step")
    assert frame.rows() == [(step, tmp_path.name) for step in (0, 100, 200)]


@pytest.mark.parametrize(
    ("steps", "rules", "code"),
    [((0, 100), ("id_twonn>5",), 0), (TO_ALERT, ("id_twonn>5",), 3), (TO_ALERT, (), 0)],
)
def test_once_ends_with_3_where_an_alert_fired(tmp_path, measured, steps, rules, code):
    lines: list[str] = []
    assert watch_folder(made.followed(history(tmp_path, *steps), *rules), lines.append, 0.0, once=True) == code
    assert sum(line.startswith("ALERT") for line in lines) == (code == 3)


def test_once_says_what_was_not_complete_and_ends_with_1_where_something_failed(tmp_path, measured):
    measured.before = lambda step: (_ for _ in ()).throw(OSError("a disk that cannot be read"))
    history(tmp_path, 0)
    made.write(tmp_path, 100, size=9)
    lines: list[str] = []
    assert watch_folder(made.followed(tmp_path), lines.append, 0.0, once=True) == 1
    assert lines == ["checkpoint-0: a disk that cannot be read", "checkpoint-100: not complete"]


def test_an_alert_reaches_a_command_and_one_that_fails_is_said(tmp_path, measured):
    of = made.followed(history(tmp_path, *TO_ALERT), "id_twonn>5")
    kept = tmp_path / "alert.json"
    lines: list[str] = []
    command = f'printf %s "$SHAPELAKE_ALERT" > {kept}; exit 7'
    assert watch_folder(of, lines.append, 0.0, once=True, on_alert=command) == 3
    told = json.loads(kept.read_text())
    assert (told["rule"], told["step"], told["value"]) == ("id_twonn@blocks>5", 600, 20.0)
    assert lines[-1] == f"alert not passed on: {command!r} ended with exit code 7"
    late: list[str] = []
    assert watch_folder(of, late.append, 0.0, once=True, on_alert=command.replace("exit 7", "exit 0")) == 3
    assert late[0] == "ALERT id_twonn@blocks>5 at checkpoint-600: 20, +100.0 standard errors, told late"
    assert json.loads(kept.read_text()) == told
    assert watch_folder(of, late.append, 0.0, once=True, on_alert=command) == 0


def test_an_alert_is_owed_from_before_it_is_told_until_it_was_taken(tmp_path, measured, monkeypatch):
    of = made.followed(history(tmp_path, *TO_ALERT), "id_twonn>5")

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("pipeline.watch.notifier.send_alert", killed)
    with pytest.raises(KeyboardInterrupt):
        watch_folder(of, len, 0.0, once=True, on_alert="true")
    (alert,) = list_undelivered(of.lake, tmp_path)
    assert list_undelivered(of.lake, tmp_path / "another") == []
    record_delivery(of.lake, alert)
    assert list_undelivered(of.lake, tmp_path) == []


def test_a_dead_webhook_is_asked_again_at_every_look_and_said_once(tmp_path, measured, monkeypatch):
    of = made.followed(history(tmp_path, *TO_ALERT), "id_twonn>5")
    follower, lines, problems = Follower(of), [], ["dead", "dead", "deaf", None]
    monkeypatch.setattr("pipeline.watch.notifier.send_alert", lambda *_: problems.pop(0))
    teller = Notifier(of.lake, tmp_path, lines.append, "http://localhost:1")
    looks(follower, 1)
    teller.deliver(next(alert for one in follower.poll() for alert in one.alerts))
    for _ in range(4):
        teller.retry_undelivered()
    assert lines[1:3] == ["alert not passed on: dead", "alert still not passed on: deaf"]
    assert lines[3:] == [f"{lines[0]}, told late"]
    assert problems == []


def test_two_watches_on_one_lake_tell_an_alert_once(tmp_path, measured):
    root = history(tmp_path / "run", *TO_ALERT)
    of = made.followed(root, "id_twonn>5")._replace(lake=Lake(tmp_path / "lake"))
    told = looks(Follower(of)) + looks(Follower(of))
    assert sum(line.startswith("ALERT") for line in told) == 1


def test_equal_weights_under_a_later_step_are_told_but_not_measured_again(tmp_path, measured):
    history(tmp_path, 0)
    shutil.copytree(tmp_path / "checkpoint-0", tmp_path / "checkpoint-100")
    assert [line.split()[0] for line in looks(Follower(made.followed(tmp_path)))] == ["checkpoint-0", "checkpoint-100"]
    assert measured.steps == [0]


def test_a_quarantined_checkpoint_has_no_numbers_and_no_alert(tmp_path, measured):
    of = made.followed(history(tmp_path, *TO_ALERT), "id_twonn>5")
    looks(Follower(of._replace(rules=())))
    (last,) = open_lake(of.lake.uri).query_frame("SELECT DISTINCT cell_id FROM layers WHERE step = 600")["cell_id"]
    of.lake.quarantine(Tombstone(cell_id=last, reason="a test", by="a test"))
    *_, line = looks(Follower(of))
    assert line == "checkpoint-600  id_twonn -  anisotropy -  loss -"
