"""Characters that the encoding of the output lacks are replaced; the work is done and the exit code stays."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import tiny_checkpoints as tiny


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_model_whose_name_the_output_cannot_print(encoding: str, tmp_path: Path) -> None:
    sweep = tiny.sweep_file(tmp_path, tiny.history(tmp_path / "東京", [1]))
    words = [
        sys.executable,
        "-m",
        "pipeline",
        "run",
        str(sweep),
        "--lake",
        str(tmp_path / "lake"),
        "--backend",
        "inline",
    ]
    environment = os.environ | {"PYTHONIOENCODING": encoding, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    done = subprocess.run(words, capture_output=True, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert b"??" in done.stdout
    assert len(list((tmp_path / "lake" / "cells").rglob("*.parquet"))) == 1
