"""Findings about a lake: each is a frame whose rows have a verdict, an effect with its error, and a sentence.

Every finding is a function of a lake (`pipeline.lake.open_lake(uri)`) or of the frame that `load_layer_rows` returns,
which several findings can share. `compute_findings` reads a lake a few models at a time. The page
`pipeline/analysis/findings.md` states the test, the thresholds, the error rates and the limits of each finding.
"""

from collections.abc import Callable, Collection, Iterable
from typing import NamedTuple

import polars as pl

from pipeline.analysis.brief import Brief, summarize_finding
from pipeline.analysis.compression_valley import compute_valley
from pipeline.analysis.controls import compute_controls
from pipeline.analysis.convergence import compute_convergence
from pipeline.analysis.depth import compute_depth
from pipeline.analysis.dome import compute_newest_domes
from pipeline.analysis.explosions import compute_explosions, sort_explosions
from pipeline.analysis.frames import LakeOrFrame, load_layer_rows, select_newest_rows
from pipeline.analysis.isotropy import compute_isotropy
from pipeline.analysis.layer_similarity import compute_similarity
from pipeline.analysis.linearity import compute_linearity
from pipeline.analysis.massive import compute_massive
from pipeline.analysis.matched import match_encoders_to_decoders
from pipeline.analysis.model_batches import ModelRows, copy_texts, match_names
from pipeline.analysis.model_convergence import compute_model_convergence, select_recorded_early_and_late
from pipeline.analysis.one_shape import compute_one_shape, select_early_and_late
from pipeline.analysis.onset import compute_onset
from pipeline.analysis.peak_overlap import compute_peak_overlap, select_recorded_newest
from pipeline.analysis.phases import compute_agreement, compute_estimators, compute_phases, sort_agreement
from pipeline.analysis.random_baselines import compute_null_survival, sort_null_survival
from pipeline.analysis.rearrangement import compute_rearrangement
from pipeline.analysis.settling import compute_settling
from pipeline.analysis.sinks import compute_sinks
from pipeline.analysis.trends import compute_trends
from pipeline.analysis.trust import compute_trust
from pipeline.errors import UsageError
from pipeline.strict_model import suggest

__all__ = [
    "FINDINGS",
    "Brief",
    "FindingSpec",
    "combine_batches",
    "compute_all_findings",
    "compute_batch",
    "compute_finding",
    "compute_findings",
    "load_layer_rows",
    "summarize_finding",
]


class FindingSpec(NamedTuple):
    """Question of a finding, and the functions that compute it."""

    question: str
    answer: Callable[[LakeOrFrame], pl.DataFrame]
    """Function that computes the frame of the finding."""
    compared_rows: Callable[[pl.DataFrame], pl.DataFrame] | None = None
    """For a finding that compares models: function that selects, from the rows of a few models, those that `answer`
    needs. None if the finding treats each model on its own."""
    order: Callable[[pl.DataFrame], pl.DataFrame] = lambda found: found
    """Function that sorts the rows of all models; the default leaves them in the order of the models."""


FINDINGS: dict[str, FindingSpec] = {
    "dome": FindingSpec(
        "Does anisotropy over depth peak in the interior, with and without sink tokens?", compute_newest_domes
    ),
    "matched": FindingSpec(
        "Do encoders and decoders of similar size have a dome, and which is more anisotropic in its middle third?",
        match_encoders_to_decoders,
        select_newest_rows,
    ),
    "convergence": FindingSpec("Does the profile of anisotropy settle in training?", compute_convergence),
    "one_shape": FindingSpec(
        "Are the profiles of the decoders more alike late in training than early?",
        compute_one_shape,
        select_early_and_late,
    ),
    "depth": FindingSpec("Does intrinsic dimension peak over depth, and where does its rise start?", compute_depth),
    "phases": FindingSpec(
        "How does intrinsic dimension move in training: does it expand and then compress?", compute_phases
    ),
    "estimators": FindingSpec("Which phases does each estimator of dimension show on its own?", compute_estimators),
    "agreement": FindingSpec(
        "Do the scales of dimension agree on the phases?", compute_agreement, order=sort_agreement
    ),
    "nulls": FindingSpec(
        "Which effects also appear on random tokens?", compute_null_survival, order=sort_null_survival
    ),
    "controls": FindingSpec(
        "How much of a change of dimension is left with one point per token type, and in a Gaussian surrogate?",
        compute_controls,
    ),
    "sinks": FindingSpec("How much mid-layer anisotropy is left without sink tokens?", compute_sinks),
    "explosions": FindingSpec(
        "When did the loss spike, and does intrinsic dimension rise before the loss does?",
        compute_explosions,
        order=sort_explosions,
    ),
    "trends": FindingSpec("How do anisotropy, effective rank and spectral decay move in training?", compute_trends),
    "linearity": FindingSpec("Are neighbouring layers related almost linearly?", compute_linearity),
    "massive": FindingSpec("Are there massive activations, and at how many tokens?", compute_massive),
    "valley": FindingSpec("Is the effective rank low in the blocks where a sink has a large norm?", compute_valley),
    "isotropy": FindingSpec("Is the final hidden state isotropic?", compute_isotropy),
    "onset": FindingSpec(
        "Do models whose dimension starts to rise in earlier layers have a lower loss?",
        compute_onset,
        select_newest_rows,
    ),
    "similarity": FindingSpec(
        "Are the first and the last block as alike as neighbouring blocks? (needs similarity records)",
        compute_similarity,
    ),
    "rearrangement": FindingSpec(
        "Are neighbourhoods rearranged gradually over depth, or in one step? (needs similarity records)",
        compute_rearrangement,
    ),
    "settling": FindingSpec(
        "When does each block reach its final geometry, and do lower blocks settle first? (needs similarity records)",
        compute_settling,
    ),
    "model_convergence": FindingSpec(
        "Are decoders more alike at matched depth late in training than early? (needs similarity records)",
        compute_model_convergence,
        select_recorded_early_and_late,
    ),
    "peak_overlap": FindingSpec(
        "Are models more alike at their peaks of dimension than elsewhere? (needs similarity records)",
        compute_peak_overlap,
        select_recorded_newest,
    ),
    "trust": FindingSpec("Which measurements are unreliable, and why?", compute_trust),
}


def compute_finding(name: str, lake: LakeOrFrame) -> pl.DataFrame:
    """Compute one finding; raise UsageError if `name` is not in FINDINGS."""
    return compute_findings([name], lake)[name]


def compute_all_findings(lake: LakeOrFrame) -> dict[str, pl.DataFrame]:
    """Compute every finding; return the frames by name of the finding."""
    return compute_findings(FINDINGS, lake)


def compute_findings(
    names: Collection[str], lake: LakeOrFrame, models: str = "*", corpus: str = "*"
) -> dict[str, pl.DataFrame]:
    """Compute the named findings; return the frames by name of the finding.

    A lake is read once, in batches of models that take a few hundred MB each. The globs apply only to a lake, not to
    a frame.

    Args:
        models: glob that selects models of the lake; a finding that compares models compares only these.
        corpus: glob that selects the corpora of the returned rows. Rows on random tokens are read in any case, for the
            findings that compare text with them.

    Raises:
        UsageError: a name is not in FINDINGS, or no model or corpus of the lake matches.
    """
    for name in names:
        _require_finding(name)
    if isinstance(lake, pl.DataFrame):
        return {name: FINDINGS[name].answer(lake) for name in names}
    rows = ModelRows(lake)
    chosen = None if models == "*" else match_names("--models", rows.models, models)
    corpora = None if corpus == "*" else match_names("--corpus", rows.corpora, corpus)
    found = combine_batches(compute_batch(names, frame) for frame in rows.batches(chosen))
    return (
        found
        if corpora is None
        else {name: part.filter(pl.col("corpus").is_in(corpora)) for name, part in found.items()}
    )


def compute_batch(names: Collection[str], frame: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """Compute the findings of one batch of models, for `combine_batches`.

    Of a finding that compares models, only the rows that it needs are returned, since it is computed once, on the rows
    of all batches.
    """
    needed = {name: FINDINGS[name].compared_rows or FINDINGS[name].answer for name in names}
    return {name: copy_texts(compute(frame)) for name, compute in needed.items()}


def combine_batches(batches: Iterable[dict[str, pl.DataFrame]]) -> dict[str, pl.DataFrame]:
    """Combine the results of `compute_batch` over batches in the order of the models.

    The result equals the findings that are computed from the rows of all models together.
    """
    parts: dict[str, list[pl.DataFrame]] = {}
    for batch in batches:
        for name, part in batch.items():
            parts.setdefault(name, []).append(part)
    together = {name: pl.concat(part) for name, part in parts.items()}
    specs = {name: FINDINGS[name] for name in together}
    return {
        name: specs[name].answer(frame) if specs[name].compared_rows else specs[name].order(frame)
        for name, frame in together.items()
    }


def _require_finding(name: str) -> None:
    if name not in FINDINGS:
        near = suggest(name, list(FINDINGS))
        raise UsageError(f"finding {name!r}", f"no such finding{near}", f"Use one of {', '.join(FINDINGS)}")
