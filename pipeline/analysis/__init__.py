"""Findings: what a lake says, each as a frame with a verdict, the effect with its error, and one sentence.

Each is a function of a lake (`pipeline.lake.open(uri)`), or of the frame that `rows` makes of one and several share.
"""

from collections.abc import Callable
from typing import NamedTuple

import polars as pl

from pipeline.analysis.convergence import convergence
from pipeline.analysis.dome import dome, matched
from pipeline.analysis.explosions import explosions
from pipeline.analysis.frames import Lakelike, rows
from pipeline.analysis.phases import agreement, estimators, phases
from pipeline.analysis.random_baselines import survival
from pipeline.analysis.sinks import sinks
from pipeline.analysis.trust import trust
from pipeline.errors import UsageError
from pipeline.strict_model import suggest

__all__ = ["FINDINGS", "Finding", "find", "findings", "rows"]


class Finding(NamedTuple):
    question: str
    answer: Callable[[Lakelike], pl.DataFrame]


FINDINGS: dict[str, Finding] = {
    "dome": Finding("Does anisotropy over depth peak inside, with and without sink tokens?", dome),
    "matched": Finding("Is the dome of decoders higher than that of encoders of their size?", matched),
    "convergence": Finding("Does the profile of anisotropy converge to one shape?", convergence),
    "phases": Finding("Does intrinsic dimension expand and then compress, and when does it turn?", phases),
    "estimators": Finding("What does each estimator of dimension say of that alone?", estimators),
    "agreement": Finding("Do the estimators of dimension agree on that?", agreement),
    "nulls": Finding("Which conclusions hold on random tokens as well?", survival),
    "sinks": Finding("How much of mid-layer anisotropy is left without sink tokens?", sinks),
    "explosions": Finding("When did the loss spike, and does intrinsic dimension rise before it?", explosions),
    "trust": Finding("What not to believe, and why?", trust),
}


def find(name: str, lake: Lakelike) -> pl.DataFrame:
    """The finding `name`, one of FINDINGS; UsageError where there is none."""
    if name not in FINDINGS:
        raise UsageError(
            f"finding {name!r}", f"no such finding{suggest(name, list(FINDINGS))}", f"Name one of {', '.join(FINDINGS)}"
        )
    return FINDINGS[name].answer(lake)


def findings(lake: Lakelike) -> dict[str, pl.DataFrame]:
    """Every finding by name."""
    frame = rows(lake)
    return {name: finding.answer(frame) for name, finding in FINDINGS.items()}
