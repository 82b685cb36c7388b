"""The Ray session of a killed driver is deleted when the next run starts; that of a living one stays."""

import os
import subprocess
import sys

from pipeline.sweep.ray_local import prepare_ray_tmpdir


def test_only_sessions_of_dead_drivers_go(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    dead = subprocess.Popen([sys.executable, "-S", "-c", ""])
    dead.wait()
    folder = prepare_ray_tmpdir()
    names = [f"session_2026-11-21_16-27-09_054088_{pid}" for pid in (os.getpid(), dead.pid)]
    for name in (*names, "session_of_somebody"):
        (folder / name / "logs").mkdir(parents=True)
    (folder / "session_latest").symlink_to(folder / names[0])
    assert prepare_ray_tmpdir() == folder
    assert {path.name for path in folder.iterdir()} == {names[0], "session_latest", "session_of_somebody"}
    assert folder.stat().st_mode & 0o077 == 0
