"""Three drivers of one sweep at once, in three processes: the work is shared, and nothing is damaged."""

import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from pipeline.lake import Lake, open_lake
from pipeline.lake.verify import verify_lake
from tests.support import fake_s3
from tests.support import stub_checkpoints as stub

ROOT = Path(__file__).resolve().parents[2]
STEPS, CORPORA, DRIVERS = 40, 2, 3
DRIVER = """
import sys, time
from pathlib import Path
from pipeline.lake import Lake
from pipeline.sweep.plan import make_plan
from pipeline.sweep.run import run
from pipeline.lake.leases import release_lease
from pipeline.sweep.worker import settle_or_lease
from tests.support import stub_checkpoints as stub

def work(task):
    lake = Lake(task.lake, task.lake_id)
    if settled := settle_or_lease(task, lake):
        return settled
    time.sleep(0.1)
    outcomes = stub.work(task)
    release_lease(lake, task.checkpoint.content, task.run_id)
    return outcomes

lake = Lake(sys.argv[2])
plan = make_plan(stub.sweep(Path(sys.argv[1]), n_corpora=int(sys.argv[3])), lake)
print(len(plan.todo), flush=True)
sys.stdin.readline()
report = run(plan, lake, "inline", work)
print(report.committed, report.by_others)
sys.exit(report.exit_code)
"""


def started(root: Path, lake: str) -> "subprocess.Popen[str]":
    """Start a driver that plans and waits for a line on stdin before it runs."""
    words = [sys.executable, "-c", DRIVER, str(root), lake, str(CORPORA)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(words, cwd=ROOT, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, **pipes)


@pytest.mark.parametrize("place", ["folder", "object store"])
def test_each_cell_is_there_once_though_all_wanted_it(place, tmp_path, monkeypatch):
    """All drivers have planned every cell before any of them starts."""
    root = stub.history(tmp_path / "runs", list(range(STEPS)))
    with ExitStack() as stack:
        uri = str(tmp_path / "lake")
        if place == "object store":
            for name, value in stack.enter_context(fake_s3.serve()).items():
                monkeypatch.setenv(name, value)
            uri = "s3://bucket/two"
        drivers = [started(root, uri) for _ in range(DRIVERS)]
        assert [int(driver.stdout.readline()) for driver in drivers] == [STEPS * CORPORA] * DRIVERS
        for driver in drivers:
            driver.stdin.write("go\n")
            driver.stdin.flush()
        ended = [driver.communicate(timeout=100) for driver in drivers]
        assert [driver.returncode for driver in drivers] == [0] * DRIVERS, ended
        lake = Lake(uri)
        assert len(lake.store.list("cells/v1")) == len(lake.committed_cell_ids()) == STEPS * CORPORA
        count = "select count(*), count(distinct (cell_id, layer)) from layers"
        rows, distinct = open_lake(uri).sql(count).fetchall()[0]
        assert rows == distinct == STEPS * CORPORA * stub.LAYERS
        assert list(verify_lake(lake)) == []
    tries = [len(stub.tries(root, step)) for step in range(STEPS)]
    assert sum(tries) <= 1.1 * STEPS, "at most a tenth of the work is done twice"
    counts = [tuple(map(int, out.split())) for out, _ in ended]
    assert sum(committed for committed, _ in counts) == STEPS * CORPORA, counts
    assert all(sum(count) == STEPS * CORPORA for count in counts), counts
