"""Leak check of a long sweep, at full size."""

import subprocess
import sys

import pytest

from tests.chaos.cluster import ROOT


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_after_five_thousand_cells_a_sweep_takes_what_it_took_after_two_hundred():
    flat = subprocess.run(
        [sys.executable, "-m", "tests.chaos.flat", "--cells", "5000"], cwd=ROOT, capture_output=True, text=True
    )
    assert flat.returncode == 0, flat.stdout + flat.stderr
    assert "flat; 5000 of 5000 cells" in flat.stdout
