"""Watchdog: the stack that it leaves, and the file whose age is that of the current stage."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.spec import Resources
from pipeline.sweep import watchdog
from pipeline.sweep.task import Task
from tests.support import lake_rows

HANGS = """
import faulthandler, sys, threading, time

def beside():
    time.sleep(60)

threading.Thread(target=beside, daemon=True).start()
faulthandler.dump_traceback_later(0.2, exit=True, file=open(sys.argv[1], "w"))
def deep():
    time.sleep(60)
deep()
"""


@pytest.fixture
def task() -> Task:
    cell = lake_rows.cell(lake_rows.checkpoint(0))
    return Task(lake="lake", run_id="run", checkpoint=cell.checkpoint, cells=(cell,), resources=Resources(cpus=1))


def test_the_place_is_the_innermost_line_of_the_main_thread(tmp_path: Path):
    script, stack = tmp_path / "hangs.py", tmp_path / "stack"
    script.write_text(HANGS)
    assert subprocess.run([sys.executable, str(script), str(stack)], check=False).returncode == 1
    assert watchdog.innermost_line(stack.read_text()) == f"hangs.py:{HANGS.splitlines().index('def deep():') + 2}"


def test_of_no_stack_there_is_no_place():
    assert watchdog.innermost_line("") == ""


def test_a_try_is_stuck_once_its_file_is_old_and_not_before_nor_after(task):
    task = task.model_copy(update={"resources": Resources(timeout_s=1)})
    assert watchdog.find_stuck([task], 0.0) == [task.checkpoint.content], "any age will do"
    with watchdog.mark_in_flight(task):
        assert watchdog.find_stuck([task], 10.0) == []
        old = time.time() - 20
        os.utime(watchdog.stack_file(task), (old, old))
        assert watchdog.find_stuck([task], 10.0) == [task.checkpoint.content]
        assert watchdog.find_stuck([task.model_copy(update={"attempt": 2})], 10.0) == [], "another try"
        with watchdog.exit_on_timeout(task):
            assert watchdog.find_stuck([task], 10.0) == [], "at something else since"
    assert not watchdog.stack_file(task).exists()


def test_a_worker_tells_the_driver_how_far_its_cell_is(tmp_path, monkeypatch):
    from pipeline import progress

    monkeypatch.setattr(progress, "SHOW_AFTER_S", 0)
    monkeypatch.setattr(progress, "REPORT_EVERY_S", 0)
    point = lake_rows.checkpoint(1)
    task = Task(lake=str(tmp_path), run_id="r", checkpoint=point, cells=(), resources=Resources(cpus=1, slots=1))
    with watchdog.mark_in_flight(task):
        assert watchdog.read_progress([task]) == []
        for _ in progress.track(range(3), "some cell", 3, "contexts"):
            pass
        assert watchdog.read_progress([task]) == ["some cell: 3 of 3 contexts"]
    assert watchdog.read_progress([task]) == []
