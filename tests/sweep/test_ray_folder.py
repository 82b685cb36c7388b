"""The Ray session of a killed driver is deleted when the next run starts; that of a living one stays."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from pipeline.errors import UsageError
from pipeline.sweep.ray_local import prepare_ray_tmpdir
from tests.support import tiny_checkpoints as tiny


@pytest.fixture
def short_folder(monkeypatch):
    """Folder for RAY_TMPDIR: those of pytest are too long for sockets."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        monkeypatch.setenv("RAY_TMPDIR", folder)
        yield Path(folder)


def test_only_sessions_of_dead_drivers_go(short_folder):
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


@pytest.mark.parametrize("name", ["x" * 100, "é" * 30, "a/" * 40])
def test_a_folder_too_long_for_sockets_is_refused(name, short_folder, monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", str(short_folder / name))
    with pytest.raises(UsageError, match="bytes long; Ray's sockets below it allow at most") as error:
        prepare_ray_tmpdir()
    assert str(error.value).count("\n") == 1
    assert not (short_folder / name).exists()


def test_workers_import_this_package_though_the_current_folder_has_one_of_that_name(tmp_path):
    """A user's own `pipeline` in the folder from which a run starts; it ends whoever imports it."""
    root = tiny.history(tmp_path / "runs", [1])
    sweep = tiny.sweep_file(tmp_path, root)
    (tmp_path / "pipeline").mkdir()
    (tmp_path / "pipeline" / "__init__.py").write_text("raise SystemExit(7)")
    words = ["run", str(sweep), "--lake", str(tmp_path / "lake")]
    script = "import sys; sys.argv[0] = 'shapelake'; from pipeline.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-P", "-c", script, *words],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list((tmp_path / "lake" / "cells").rglob("*.parquet"))) == 1
