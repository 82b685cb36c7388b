"""Findings about a lake: each is a frame with a verdict, the effect with its error, and one sentence per row.

Every finding is a function of a lake (`pipeline.lake.open_lake(uri)`) or of the frame that `load_layer_rows` returns,
which several findings can share. Tests, thresholds, error rates and limits of each: `pipeline/analysis/findings.md`.
"""

from collections.abc import Callable
from typing import NamedTuple

import polars as pl

from pipeline.analysis.convergence import compute_convergence
from pipeline.analysis.dome import compute_newest_domes, match_encoders_to_decoders
from pipeline.analysis.explosions import compute_explosions
from pipeline.analysis.frames import LakeOrFrame, load_layer_rows
from pipeline.analysis.phases import compute_agreement, compute_estimators, compute_phases
from pipeline.analysis.random_baselines import compute_null_survival
from pipeline.analysis.sinks import compute_sinks
from pipeline.analysis.trust import compute_trust
from pipeline.errors import UsageError
from pipeline.strict_model import suggest

__all__ = ["FINDINGS", "FindingSpec", "compute_all_findings", "compute_finding", "load_layer_rows"]


class FindingSpec(NamedTuple):
    question: str
    answer: Callable[[LakeOrFrame], pl.DataFrame]


FINDINGS: dict[str, FindingSpec] = {
    "dome": FindingSpec(
        "Does anisotropy over depth peak in the interior, with and without sink tokens?", compute_newest_domes
    ),
    "matched": FindingSpec(
        "Is the dome of decoders higher than that of encoders of similar size?", match_encoders_to_decoders
    ),
    "convergence": FindingSpec("Does the profile of anisotropy converge in training?", compute_convergence),
    "phases": FindingSpec(
        "Does intrinsic dimension expand and then compress in training, and at which step does it peak?", compute_phases
    ),
    "estimators": FindingSpec("Which phases does each estimator of dimension show on its own?", compute_estimators),
    "agreement": FindingSpec("Do the estimators of dimension agree on the phases?", compute_agreement),
    "nulls": FindingSpec("Which conclusions also hold on random tokens?", compute_null_survival),
    "sinks": FindingSpec("How much mid-layer anisotropy is left without sink tokens?", compute_sinks),
    "explosions": FindingSpec(
        "When did the loss spike, and does intrinsic dimension rise before the loss does?", compute_explosions
    ),
    "trust": FindingSpec("Which measurements are unreliable, and why?", compute_trust),
}


def compute_finding(name: str, lake: LakeOrFrame) -> pl.DataFrame:
    """Compute one finding; UsageError if `name` is not in FINDINGS."""
    if name not in FINDINGS:
        near = suggest(name, list(FINDINGS))
        raise UsageError(f"finding {name!r}", f"no such finding{near}", f"Use one of {', '.join(FINDINGS)}")
    return FINDINGS[name].answer(lake)


def compute_all_findings(lake: LakeOrFrame) -> dict[str, pl.DataFrame]:
    """Compute every finding, by name; the lake is read once."""
    frame = load_layer_rows(lake)
    return {name: finding.answer(frame) for name, finding in FINDINGS.items()}
