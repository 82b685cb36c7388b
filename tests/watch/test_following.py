"""Watching writers that stall, crash, rotate or write out of order, and watches that are killed and restarted."""

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
from tests.support import watched_history

STEADY, JUMP = (10.0, 10.1, 9.9, 10.0, 10.1, 9.9), 20.0
TO_ALERT = (0, 100, 200, 300, 600)


@pytest.fixture
def measured(monkeypatch):
    """Stubbed measurements: dimension about 10, and 20 from step 600 on."""
    return watched_history.Measured(monkeypatch, lambda step: JUMP if step >= 600 else STEADY[step // 100])


def poll_lines(follower: Follower, times: int = 2) -> list[str]:
    """Poll `times` times and return the lines of all events and alerts."""
    events = [event for _ in range(times) for event in follower.poll()]
    return [line for event in events for line in (event.line, *map(str, event.alerts))]


def history(root, *steps):
    for step in steps:
        watched_history.write(root, step)
    return root


def test_a_complete_checkpoint_is_measured_once_and_reported_in_one_line(tmp_path, measured):
    follower = Follower(watched_history.followed(history(tmp_path, 0)))
    assert poll_lines(follower, 1) == []  # the checkpoint may still be growing
    (line,) = poll_lines(follower, 3)
    assert line == "checkpoint-0  id_twonn 10  anisotropy -  loss 2.5"
    assert measured.steps == [0]


def test_a_writer_that_stalls_is_waited_for(tmp_path, measured):
    follower = Follower(watched_history.followed(tmp_path))
    for size in (0, 30, 100, 100, 100):
        watched_history.write(tmp_path, 0, size)
        assert poll_lines(follower, 1) == []
    assert follower.list_pending() == ["checkpoint-0"]
    watched_history.write(tmp_path, 0)
    assert len(poll_lines(follower)) == 1
    assert follower.list_pending() == []


def test_a_save_that_crashed_does_not_block_others_and_is_measured_once_rewritten(tmp_path, measured):
    watched_history.write(tmp_path, 100, size=50)
    history(tmp_path, 0, 200)
    follower = Follower(watched_history.followed(tmp_path))
    poll_lines(follower, 3)
    assert measured.steps == [0, 200]
    watched_history.write(tmp_path, 100)
    poll_lines(follower)
    assert measured.steps == [0, 200, 100]


def test_a_checkpoint_rotated_away_is_skipped_even_while_it_is_measured(tmp_path, measured):
    history(tmp_path, 0, 100, 200)
    follower = Follower(watched_history.followed(tmp_path))
    poll_lines(follower, 1)
    shutil.rmtree(tmp_path / "checkpoint-0")

    def rotate(step):
        if step == 100:
            shutil.rmtree(tmp_path / "checkpoint-100")
            raise FileNotFoundError("checkpoint-100/model.safetensors")

    measured.before = rotate
    assert len(poll_lines(follower)) == 1
    assert measured.steps == [200]


def test_a_checkpoint_rewritten_with_other_weights_is_another_measurement(tmp_path, measured):
    follower = Follower(watched_history.followed(history(tmp_path, 0)))
    poll_lines(follower)
    (tmp_path / "checkpoint-0" / "model.safetensors").write_bytes(watched_history.weights(7))
    assert len(poll_lines(follower)) == 1
    (tmp_path / "checkpoint-0" / "optimizer.pt").write_bytes(b"late")
    assert poll_lines(follower) == []
    assert measured.steps == [0, 0]


def test_what_is_written_out_of_order_is_judged_by_what_came_before_it_in_training(tmp_path, measured):
    follower = Follower(watched_history.followed(history(tmp_path, 0, 100, 200, 300, 600, 700), "id_twonn>5"))
    first = poll_lines(follower)
    assert [line for line in first if line.startswith("ALERT")] == [
        "ALERT id_twonn@blocks>5 at checkpoint-600: 20, +100.0 standard errors",
        "ALERT id_twonn@blocks>5 at checkpoint-700: 20, +67.4 standard errors",  # (20 - 10) / (1.4826 x 0.1)
    ]
    history(tmp_path, 400)
    (late,) = poll_lines(follower)
    assert late.startswith("checkpoint-400  id_twonn 10.1 (+1.0 se)")  # 600 is in the lake, but later than 400


def test_a_restart_measures_nothing_again_and_repeats_no_alert(tmp_path, measured):
    config = watched_history.followed(history(tmp_path, *TO_ALERT), "id_twonn>5")
    assert sum(line.startswith("ALERT") for line in poll_lines(Follower(config))) == 1
    again = poll_lines(Follower(config))
    assert len(again) == 5
    assert not any(line.startswith("ALERT") for line in again)
    assert measured.steps == list(TO_ALERT)


def test_an_alert_left_undelivered_by_a_killed_watch_is_delivered_by_the_next(tmp_path, measured, monkeypatch):
    config = watched_history.followed(history(tmp_path, *TO_ALERT), "id_twonn>5")
    follower = Follower(config)
    with monkeypatch.context() as patched:
        patched.setattr(
            "pipeline.watch.follower.compare_with_history", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        for _ in range(5):  # killed after each commit
            with pytest.raises(KeyboardInterrupt):
                poll_lines(follower)
    assert measured.steps == list(TO_ALERT)
    assert sum(line.startswith("ALERT") for line in poll_lines(Follower(config))) == 1
    assert len(measured.steps) == 5


def test_a_checkpoint_that_cannot_be_measured_is_reported_once_and_does_not_block_others(tmp_path, measured):
    def refuse(step):
        if step == 0:
            raise OSError("a disk that cannot be read")

    measured.before = refuse
    follower = Follower(watched_history.followed(history(tmp_path, 0, 100)))
    assert [line.split()[0] for line in poll_lines(follower, 4)] == ["checkpoint-0:", "checkpoint-100"]


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), ValueError("no rows"), IndexError("7")])
def test_any_error_of_a_measurement_is_reported_once_with_its_class(tmp_path, measured, error):
    def fail(step):
        if step == 0:
            raise error

    measured.before = fail
    follower = Follower(watched_history.followed(history(tmp_path, 0, 100)))
    first, second = poll_lines(follower, 4)
    assert first == f"checkpoint-0: {type(error).__name__}: {error}"
    assert second.startswith("checkpoint-100  ")


def test_a_folder_that_is_removed_is_reported_once_and_may_come_back(tmp_path, measured):
    config = watched_history.followed(history(tmp_path / "run", 0))._replace(lake=Lake(tmp_path / "lake"))
    follower = Follower(config)
    poll_lines(follower)
    shutil.move(tmp_path / "run", tmp_path / "away")
    assert poll_lines(follower, 3) == [f"{tmp_path / 'run'}: cannot be read: No such file or directory"]
    assert follower.list_pending() == []
    shutil.move(tmp_path / "away", tmp_path / "run")
    history(tmp_path / "run", 100)
    assert [line.split()[0] for line in poll_lines(follower)] == ["checkpoint-100"]


@pytest.mark.parametrize("flag", ["nonfinite_loss", "nonfinite_rows"])
def test_nan_and_infinity_are_reported_in_the_line(tmp_path, measured, flag):
    measured.flags[600] = [flag]
    *_, before, last = poll_lines(Follower(watched_history.followed(history(tmp_path, *TO_ALERT))))
    assert last.endswith(f"  NaN or infinity ({flag})")
    assert "NaN" not in before


def request(root, name):
    (root / REQUESTS_FOLDER).mkdir(exist_ok=True)
    (root / REQUESTS_FOLDER / name).touch()
    return root / REQUESTS_FOLDER / name


def test_a_stale_request_is_dropped_and_takes_nothing(tmp_path, measured):
    follower = Follower(watched_history.followed(tmp_path))
    gone, early = request(tmp_path, "checkpoint-7"), request(tmp_path, "checkpoint-0")
    history(tmp_path, 0)
    os.utime(early, ns=(0, 0))  # requested before the checkpoint was rewritten
    assert poll_lines(follower, 1) == []
    assert not gone.exists()
    assert not early.exists()
    assert len(poll_lines(follower, 1)) == 1
    settled = request(tmp_path, "checkpoint-0")
    assert poll_lines(follower, 1) == []
    assert not settled.exists()


def test_a_requested_checkpoint_is_taken_at_the_first_poll(tmp_path, measured):
    follower = Follower(watched_history.followed(history(tmp_path, 0)))
    requested = request(tmp_path, "checkpoint-0")
    assert len(poll_lines(follower, 1)) == 1
    assert not requested.exists()


def test_the_lake_has_the_history_of_a_folder_that_rotates(tmp_path, measured):
    config = watched_history.followed(tmp_path)
    follower = Follower(config)
    for step in (0, 100, 200):
        history(tmp_path, step)
        poll_lines(follower)
        shutil.rmtree(tmp_path / f"checkpoint-{step}")
    frame = open_lake(config.lake.uri).query_frame("SELECT DISTINCT step, model FROM layers ORDER BY step")
    assert frame.rows() == [(step, tmp_path.name) for step in (0, 100, 200)]


@pytest.mark.parametrize(
    ("steps", "rules", "code"),
    [((0, 100), ("id_twonn>5",), 0), (TO_ALERT, ("id_twonn>5",), 3), (TO_ALERT, (), 0)],
)
def test_once_ends_with_3_where_an_alert_fired(tmp_path, measured, steps, rules, code):
    lines: list[str] = []
    assert (
        watch_folder(watched_history.followed(history(tmp_path, *steps), *rules), lines.append, 0.0, once=True) == code
    )
    assert sum(line.startswith("ALERT") for line in lines) == (code == 3)


def test_once_says_what_was_not_complete_and_ends_with_1_where_something_failed(tmp_path, measured):
    measured.before = lambda step: (_ for _ in ()).throw(OSError("a disk that cannot be read"))
    history(tmp_path, 0)
    watched_history.write(tmp_path, 100, size=9)
    lines: list[str] = []
    assert watch_folder(watched_history.followed(tmp_path), lines.append, 0.0, once=True) == 1
    assert lines == ["checkpoint-0: a disk that cannot be read", "checkpoint-100: not complete"]


def test_an_alert_reaches_a_command_and_a_failing_command_is_reported(tmp_path, measured):
    config = watched_history.followed(history(tmp_path, *TO_ALERT), "id_twonn>5")
    received = tmp_path / "alert.json"
    lines: list[str] = []
    command = f'printf %s "$SHAPELAKE_ALERT" > {received}; exit 7'
    assert watch_folder(config, lines.append, 0.0, once=True, on_alert=command) == 3
    alert = json.loads(received.read_text())
    assert (alert["rule"], alert["step"], alert["value"]) == ("id_twonn@blocks>5", 600, 20.0)
    assert f"{command!r} ended with exit code 7" in lines[-1]
    late: list[str] = []
    assert watch_folder(config, late.append, 0.0, once=True, on_alert=command.replace("exit 7", "exit 0")) == 3
    assert late[0].startswith("ALERT id_twonn@blocks>5 at checkpoint-600: 20, +100.0 standard errors, ")
    assert json.loads(received.read_text()) == alert
    assert watch_folder(config, late.append, 0.0, once=True, on_alert=command) == 0


def test_an_alert_is_undelivered_until_its_delivery_is_recorded(tmp_path, measured, monkeypatch):
    config = watched_history.followed(history(tmp_path, *TO_ALERT), "id_twonn>5")

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("pipeline.watch.notifier.send_alert", killed)
    with pytest.raises(KeyboardInterrupt):
        watch_folder(config, len, 0.0, once=True, on_alert="true")
    (alert,) = list_undelivered(config.lake, tmp_path)
    assert list_undelivered(config.lake, tmp_path / "another") == []
    record_delivery(config.lake, alert)
    assert list_undelivered(config.lake, tmp_path) == []


def test_a_dead_webhook_is_retried_at_every_poll_and_reported_once(tmp_path, measured, monkeypatch):
    config = watched_history.followed(history(tmp_path, *TO_ALERT), "id_twonn>5")
    follower, lines, problems = Follower(config), [], ["timed out", "timed out", "refused", None]
    monkeypatch.setattr("pipeline.watch.notifier.send_alert", lambda *_: problems.pop(0))
    notifier = Notifier(config.lake, tmp_path, lines.append, "http://localhost:1")
    poll_lines(follower, 1)
    notifier.deliver(next(alert for event in follower.poll() for alert in event.alerts))
    for _ in range(4):
        notifier.retry_undelivered()
    alert, first, second, delivered = lines
    assert (first.endswith(": timed out"), second.endswith(": refused")) == (True, True)
    assert delivered.startswith(f"{alert}, ")
    assert problems == []


def test_two_watches_on_one_lake_report_an_alert_once(tmp_path, measured):
    root = history(tmp_path / "run", *TO_ALERT)
    config = watched_history.followed(root, "id_twonn>5")._replace(lake=Lake(tmp_path / "lake"))
    lines = poll_lines(Follower(config)) + poll_lines(Follower(config))
    assert sum(line.startswith("ALERT") for line in lines) == 1


def test_equal_weights_under_a_later_step_are_reported_but_not_measured_again(tmp_path, measured):
    history(tmp_path, 0)
    shutil.copytree(tmp_path / "checkpoint-0", tmp_path / "checkpoint-100")
    assert [line.split()[0] for line in poll_lines(Follower(watched_history.followed(tmp_path)))] == [
        "checkpoint-0",
        "checkpoint-100",
    ]
    assert measured.steps == [0]


def test_a_quarantined_checkpoint_has_no_numbers_and_no_alert(tmp_path, measured):
    config = watched_history.followed(history(tmp_path, *TO_ALERT), "id_twonn>5")
    poll_lines(Follower(config._replace(rules=())))
    (last,) = open_lake(config.lake.uri).query_frame("SELECT DISTINCT cell_id FROM layers WHERE step = 600")["cell_id"]
    config.lake.quarantine(Tombstone(cell_id=last, reason="a test", by="a test"))
    *_, line = poll_lines(Follower(config))
    assert line == "checkpoint-600  id_twonn -  anisotropy -  loss -"
