"""`kill -9` of the driver at random moments and a rerun: every cell once, no partial file."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline import lake as lakes
from tests.support import tiny_checkpoints as tiny
from tests.support.tiny_checkpoints import sweep_file

ROOT = Path(__file__).resolve().parent.parent.parent


def start(sweep: Path, lake: Path, backend: str) -> subprocess.Popen:
    words = ["-m", "pipeline", "run", str(sweep), "--lake", str(lake), "--backend", backend]
    return subprocess.Popen(
        [sys.executable, *words], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def readable(lake: Path) -> int:
    """Number of cells that a reader sees now; a partial file would raise."""
    files = list(lake.glob("cells/v1/*/*.parquet"))
    for path in files:
        assert pq.read_table(path).num_rows == 4
    return len(files)


@pytest.mark.parametrize(
    ("backend", "n", "kills"),
    [
        ("inline", 6, 1),
        ("ray", 6, 1),
        pytest.param("inline", 12, 3, marks=pytest.mark.slow),
        pytest.param("ray", 12, 2, marks=pytest.mark.slow),
    ],
)
def test_a_killed_driver_loses_nothing_and_repeats_nothing(tmp_path, backend, n, kills):
    steps = list(range(n))
    root = tiny.history(tmp_path / "runs", steps)
    sweep = sweep_file(tmp_path, root, corpora=[{"text": "prose.txt"}, {"random-uniform": {}}])
    lake = tmp_path / "lake"
    rng = random.Random(backend)
    seen: dict[str, tuple[int, int]] = {}
    for _ in range(kills):
        driver = start(sweep, lake, backend)
        target = readable(lake) + rng.randint(0, 5)
        while readable(lake) < target:
            assert driver.poll() is None, driver.communicate()
        time.sleep(rng.uniform(0, 0.2))
        os.kill(driver.pid, signal.SIGKILL)
        driver.wait()
        for path in lake.glob("cells/v1/*/*.parquet"):
            about = (path.stat().st_ino, path.stat().st_mtime_ns)
            assert seen.setdefault(path.name, about) == about, "a committed cell is never written again"
    driver = start(sweep, lake, backend)
    said, _ = driver.communicate(timeout=100)
    assert driver.returncode == 0, said
    assert readable(lake) == 2 * len(steps)
    found = lakes.open_lake(lake).sql("select count(*), count(distinct (cell_id, layer)) from layers").fetchall()
    assert found == [(2 * len(steps) * 4, 2 * len(steps) * 4)]
    assert {name: seen[name] for name in seen} == {
        path.name: (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in lake.glob("cells/v1/*/*.parquet")
        if path.name in seen
    }


def test_sigterm_drains_a_run_on_ray_and_a_rerun_does_the_rest(tmp_path):
    n = 30
    root = tiny.history(tmp_path / "runs", list(range(n)))
    sweep = sweep_file(tmp_path, root, resources={"cpus": 2, "slots": 2})
    lake = tmp_path / "lake"
    driver = start(sweep, lake, "ray")
    while not readable(lake):
        assert driver.poll() is None, driver.communicate()
    driver.send_signal(signal.SIGTERM)
    said, _ = driver.communicate(timeout=60)
    done = readable(lake)
    assert driver.returncode == 143, said
    assert 0 < done < n
    assert f"{n - done} unfinished" in said
    driver = start(sweep, lake, "inline")
    said, _ = driver.communicate(timeout=60)
    assert (driver.returncode, readable(lake)) == (0, n), said


@pytest.mark.parametrize("delay_s", [0.0, 0.5, 2.0, 4.0])
def test_sigterm_so_long_after_ray_was_called_for_has_one_exit_code(tmp_path, delay_s):
    """Moments from planning to measuring, depending on the machine; work is always left."""
    sweep = sweep_file(tmp_path, tiny.history(tmp_path / "runs", list(range(60))))
    driver = start(sweep, tmp_path / "lake", "ray")
    assert driver.stdout
    while "starting ray" not in driver.stdout.readline():
        assert driver.poll() is None
    time.sleep(delay_s)
    driver.send_signal(signal.SIGTERM)
    said, _ = driver.communicate(timeout=60)
    assert driver.returncode == 143, said
    assert "Traceback" not in said


@pytest.mark.slow
def test_sigterm_after_the_end_of_ray_is_an_exit_and_no_death(tmp_path):
    """Ray's shutdown removes the handler; the process would die without flushing its output."""
    program = "import os, signal, sys, time\nfrom pipeline.sweep import run as module\n"
    program += "module._compact = lambda *_: os.kill(os.getpid(), signal.SIGTERM)\n"
    program += "from pipeline.cli import main\nmain()\n"
    sweep = sweep_file(tmp_path, tiny.history(tmp_path / "runs", [0]))
    words = ["run", str(sweep), "--lake", str(tmp_path / "lake"), "--backend", "ray"]
    done = subprocess.run([sys.executable, "-c", program, *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 143, done.stdout + done.stderr
    assert "1 cells, starting ray" in done.stdout + done.stderr
    assert readable(tmp_path / "lake") == 1
