"""Chaos command at small and at full size."""

import subprocess
import sys

import pytest

from tests.chaos.cluster import ROOT

FULL = "--tasks 400 --worker-kills 25 --driver-kills 8 --node-kills 3 --seed"


@pytest.mark.parametrize(
    ("words", "killed"),
    [
        pytest.param(
            "--tasks 24 --worker-kills 2 --driver-kills 1 --nodes 1", "2 worker, 1 driver, 0 node", id="small"
        ),
        *(
            pytest.param(f"{FULL} {seed}", "25 worker, 8 driver, 3 node", id=f"full-{seed}", marks=pytest.mark.slow)
            for seed in (1, 2, 3)
        ),
    ],
)
@pytest.mark.timeout(900)
def test_whatever_is_killed_nothing_is_lost_doubled_or_condemned_wrongly(words, killed):
    chaos = subprocess.run(
        [sys.executable, "-m", "tests.chaos", *words.split()], cwd=ROOT, capture_output=True, text=True
    )
    assert chaos.returncode == 0, chaos.stdout + chaos.stderr
    assert "missing 0, duplicate 0, unreadable 0, misjudged 0" in chaos.stdout
    assert f"killed {killed};" in chaos.stdout
