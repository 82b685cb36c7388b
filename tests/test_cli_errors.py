"""Errors of any kind end in two lines; only --debug shows the traceback."""

import subprocess
import sys

import pytest

from pipeline.lake import Lake
from tests.infra.files import ROOT


@pytest.fixture
def lake(tmp_path):
    Lake(tmp_path / "lake").identity.begin()
    return tmp_path / "lake"


@pytest.mark.parametrize(
    ("error", "found", "do"),
    [
        (RuntimeError("out of luck"), "RuntimeError: out of luck", "with --debug and report"),
        (PermissionError(13, "Permission denied", "/a/b"), "/a/b: Permission denied", "Check the path"),
        (OSError(28, "No space left on device"), "No space left on device", "free space"),
    ],
)
def test_an_error_without_a_remedy_has_two_lines(lake, shapelake, monkeypatch, error, found, do):
    def fail(_):
        raise error

    monkeypatch.setattr("pipeline.cli.sweeps.lake_status", fail)
    code, out, err = shapelake("status", "--lake", lake)
    assert (code, out, len(err.splitlines())) == (1, "", 2)
    assert found in err.splitlines()[0]
    assert do in err.splitlines()[1]
    with pytest.raises(type(error)):
        shapelake("status", "--lake", lake, "--debug")
    with pytest.raises(type(error)):
        shapelake("--debug", "status", "--lake", lake)


def test_debug_shows_where_a_wrong_use_was_noticed(tmp_path, shapelake):
    code, _, err = shapelake("status", "--lake", tmp_path / "typo", "--debug")
    assert (code, "Traceback" in err, "no such folder" in err) == (2, True, True)


def test_a_folder_that_cannot_be_made_is_an_error_in_two_lines(tmp_path, shapelake):
    (tmp_path / "file").touch()
    code, _, err = shapelake("demo", "--folder", tmp_path / "file")
    assert (code, len(err.splitlines()), "it is a file" in err) == (2, 2, True)


def test_the_version_is_printed(shapelake):
    code, out, _ = shapelake("--version")
    assert (code, out.split()[0]) == (0, "shapelake")


def test_a_job_without_a_lake_is_wrong_use_of_that_job():
    words = [sys.executable, "-m", "jobs.local"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Usage: python -m jobs.local [OPTIONS]\n" in done.stderr
    assert "Missing option '--lake'" in done.stderr
