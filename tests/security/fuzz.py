"""Property tests on hostile input: few cases by default, thousands under `slow`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

COUNTS = [
    pytest.param(30, id="few"),
    pytest.param(2000, id="many", marks=[pytest.mark.slow, pytest.mark.timeout(1200)]),
]

PIECES = ["..", ".", "/", "\\", "\0", "~", "~root", "C:", "a", "é", "\u202e", "\ud800", "$HOME", "`id`", "%2e%2e", "\n"]
hostile_names = st.one_of(
    st.lists(st.sampled_from([*PIECES, "step", "1", "-", "tokens", "9" * 300, "B"]), max_size=12).map("".join),
    st.text(max_size=60),
    st.sampled_from(["", "/etc/passwd", "../" * 40, "a" * 4000, "step" + "9" * 5000, "con", "-rf", "step٣"]),
)


def holds_for_all(count: int, values: st.SearchStrategy[Any], holds: Callable[[Any], None]) -> None:
    """Check `holds` on `count` values; Hypothesis prints the smallest failing one."""
    checked = given(values)(holds)
    settings(max_examples=count, deadline=None, database=None, suppress_health_check=list(HealthCheck))(checked)()


def peak_bytes() -> int:
    """Return the peak memory of this process since `forget_peak`, in bytes."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:"))


def forget_peak() -> int:
    """Reset the peak memory counter and return the current memory, in bytes."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak_bytes()
