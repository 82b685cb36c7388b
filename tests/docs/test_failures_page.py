"""The table of pipeline/sweep/failures.md equals the policies in the code."""

import re
from pathlib import Path
from typing import get_args

from pipeline.sweep.retry_policy import POLICIES, ErrorClass

PAGE = Path(__file__).resolve().parents[2] / "pipeline" / "sweep" / "failures.md"


def yes(value: bool) -> str:
    return "yes" if value else "no"


def test_every_class_has_one_policy():
    assert set(POLICIES) == set(get_args(ErrorClass))


def test_the_page_shows_the_policies():
    rows = re.findall(r"^\| `(\w+)` \| (.+) \|$", PAGE.read_text(), re.MULTILINE)
    assert dict(rows) == {
        name: " | ".join(
            (
                policy.cause,
                str(policy.max_attempts or "unlimited"),
                policy.quarantines,
                yes(policy.retry_in_run),
                yes(policy.backoff),
                policy.on_retry,
            )
        )
        for name, policy in POLICIES.items()
    }
