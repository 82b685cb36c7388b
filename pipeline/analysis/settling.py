"""Settling of layers: when each block reaches its final geometry in training, and whether lower blocks do so first.

The similarity of a block at a checkpoint is that of its states there to its states at the last checkpoint.
"""

from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float64

from pipeline.analysis.checkpoint_similarity import Course, measure_courses, select_comparable
from pipeline.analysis.claims import CONTRADICTS, SUPPORTS, UNDECIDED
from pipeline.analysis.curves import NO_ERRORS, TOO_FEW
from pipeline.analysis.frames import (
    HISTORY_COLUMNS,
    LakeOrFrame,
    add_because_column,
    load_trained_blocks,
)
from pipeline.analysis.layer_similarity import permutation_p
from pipeline.analysis.recorded_cells import has_groups, iter_recorded_histories, recorded_measures
from pipeline.analysis.settling_sentences import (
    LOWER_FIRST,
    SAME_TIME,
    SETTLES,
    STILL,
    TRUNCATED,
    UNDECIDED_YET,
    UNSETTLED,
    UPPER_FIRST,
    describe_settling,
)
from pipeline.analysis.similarities import (
    can_compare,
    compare_layers,
    estimate_columns,
    expected_similarity,
    jackknife_estimate,
    shared_tokens,
)
from pipeline.lake.cell_records import CellRecords
from pipeline.similarity.record import ComparedTokens, LayerRecord, first_of_each

MAX_BOUND = 0.02
"""Largest difference from the CKA of whole kernels at which the order is judged. What the records leave out may change
over training and differ between blocks, which shifts the times of settling."""
SETTLED_SHARE = 0.95
"""A layer has settled when its similarity has risen by this share of the way from its first value to 1."""
MIN_CHECKPOINTS = 4
MIN_BLOCKS = 3
TOGETHER = 1.0
"""Layers settle together if the first and the last block settle within this many doublings of training."""
SLOPE_LEVEL = 0.98
"""Coverage of the interval of the slope. The jackknife interval is too narrow, since a settling time is no smooth
function of the similarities: at 95 % it excludes a true slope of 0 in 7 to 9 % of simulated histories."""


def compute_settling(lake: LakeOrFrame) -> pl.DataFrame:
    """Find when each block settles, and whether lower blocks settle first.

    A block settles at the step after which its similarity to its final state stays above 95 % of the way from its first
    value to 1. Each checkpoint is compared with the last one on the tokens that are ordinary (no sinks) in both.

    Columns of all rows:

    - the keys of a history
    - `measure`: `cka` or `overlap_4`
    - `layer`: layer of the block; null in the row of the whole history
    - `start_share`: first step as a share of the last step
    - `checkpoints`: number of compared checkpoints
    - `bound`: largest difference of a similarity, before the last checkpoint, from the CKA of whole kernels; 0 for
      overlaps
    - `left_out`: checkpoints without geometry or with too few ordinary tokens, each with the reason
    - `tokens`: number of tokens that are ordinary in both the first and the last checkpoint
    - `rows`: number of compared states of blocks
    - `because`: the result in a few sentences

    Columns of a block:

    - `depth`
    - `verdict`:
        - `still`: the similarity is above 0.95 at the first checkpoint already (95 %, also for whole kernels).
        - `settles`: the similarity rises significantly from the first checkpoint to the last but one, also for whole
          kernels.
        - `undecided`: neither holds.
        - `no_errors`: there is only one group of contexts, or a similarity has no value without one of the groups.
    - `start`, `start_low`, `start_high`: similarity at the first checkpoint, with its 95 % interval
    - `start_null`: expected similarity of unrelated layers
    - `start_p`: share of permutations of the tokens that have at least the similarity `start`
    - `start_types`: `start` with only one occurrence of each token type; null if too few tokens remain
    - `start_types_null`: expected similarity of unrelated layers on these tokens
    - `settled_at`: step at which the block settles, interpolated in log2(step + 1); the first step if the similarity is
      never below 0.95
    - `settled_at_low`, `settled_at_high`: limits of this step, which are steps of checkpoints, from the 95 % intervals
      of the single similarities
    - `settled_tokens`: tokens seen at `settled_at`; null if a checkpoint does not state them

    Columns of the whole history:

    - `slope`, `slope_low`, `slope_high`: number of doublings of training by which the last block settles after the
      first, by a least-squares fit over depth, with its 98 % interval
    - `verdict`:
        - `together`: the whole interval of the slope is within one doubling of 0.
        - `lower_first`: the slope is significantly positive, and not `together`.
        - `upper_first`: the slope is significantly negative, and not `together`.
        - `undecided`: the slope is within error.
        - `unsettled`: a block settles only after the last but one checkpoint, so that its time depends on the end of
          the history.
        - `truncated`: the CKA of whole kernels may differ by more than 0.02, so the times of settling are not known.
        - `too_few`: there are fewer than 4 checkpoints or 3 blocks.
        - `no_errors`: the slope has no interval.
    - `claim` (lower layers settle first): `supports` if the slope is significantly above one doubling, `contradicts` if
      it is significantly below; else, and for unsettled and truncated, `undecided`
    """
    frame = load_trained_blocks(lake)
    found = [
        {name: rows[name][0] for name in HISTORY_COLUMNS} | row
        for rows, cells in iter_recorded_histories(frame)
        for measure in recorded_measures(cells)
        for row in _summarize_history(rows, cells, measure)
    ]
    table = pl.DataFrame(found, schema=_TYPES).sort(*HISTORY_COLUMNS, "measure", "layer", nulls_last=False)
    return add_because_column(table, describe_settling)


_TYPES: dict[str, Any] = dict.fromkeys((*HISTORY_COLUMNS, "measure"), pl.String()) | {"layer": pl.Int64()}
_TYPES |= {"start_share": pl.Float64(), "depth": pl.Float64(), "verdict": pl.String(), "claim": pl.String()}
_TYPES |= {f"{n}{end}": pl.Float64() for n in ("start", "settled_at", "slope") for end in ("", "_low", "_high")}
_TYPES |= {
    name: pl.Float64() for name in ("start_null", "start_p", "start_types", "start_types_null", "settled_tokens")
}
_TYPES |= {"bound": pl.Float64(), "left_out": pl.List(pl.String())}
_TYPES |= dict.fromkeys(("checkpoints", "tokens", "rows"), pl.Int64())


def find_settling(similarity: Float64[np.ndarray, " checkpoints"], clock: Float64[np.ndarray, " checkpoints"]) -> float:
    """Return the time after which the similarity stays above SETTLED_SHARE of the way from its first value to 1.

    It is interpolated between checkpoints. It is the time of the first checkpoint if the similarity is never below
    SETTLED_SHARE, and that of the last one if the similarity is below the target even there.
    """
    target = _target(similarity)
    below = np.flatnonzero(similarity < target)
    if not len(below) or below[-1] == len(similarity) - 1:
        return float(clock[0] if not len(below) else clock[-1])
    last = int(below[-1])
    share = (target - similarity[last]) / (similarity[last + 1] - similarity[last])
    return float(clock[last] + share * (clock[last + 1] - clock[last]))


def fit_slope(courses: list[Course], clock: Float64[np.ndarray, " checkpoints"], group: int = -1) -> float:
    """Return the change of the settling time from depth 0 to depth 1, by least squares over the blocks.

    Args:
        clock: log2(step + 1) of each checkpoint, so that the change is in doublings of training.
        group: index of the group of contexts that is left out; -1 leaves out none.
    """
    times = [find_settling(each.value if group < 0 else each.without[group], clock[each.at]) for each in courses]
    return float(np.polyfit([each.depth for each in courses], times, 1)[0])


def _summarize_history(rows: pl.DataFrame, cells: list[CellRecords], measure: str) -> list[dict[str, Any]]:
    found = select_comparable(cells)
    rows, cells = rows[found.at], [cells[i] for i in found.at]
    about: dict[str, Any] = {"measure": measure, "checkpoints": len(cells), "left_out": found.left_out}
    about |= {"start_share": float(rows["step"][0]) / max(rows["step"][-1], 1) if cells else None}
    about |= {"claim": UNDECIDED, "tokens": shared_tokens([cells[0], cells[-1]]).count if cells else 0}
    return [about | row for row in _summarize_courses(rows, cells, measure)]


def _summarize_courses(rows: pl.DataFrame, cells: list[CellRecords], measure: str) -> list[dict[str, Any]]:
    """Return a list of rows: first that of the whole history, then one per block."""
    if len(cells) < MIN_CHECKPOINTS:
        return [{"verdict": TOO_FEW, "rows": max(len(cells), 1)}]
    clock = np.log2(rows["step"].to_numpy().astype(float) + 1)
    courses = [course for course in measure_courses(cells, measure) if len(course.at) >= MIN_CHECKPOINTS]
    whole: dict[str, Any] = {"rows": max(sum(len(course.at) for course in courses), 1)}
    whole |= {"bound": max((course.largest_bound for course in courses), default=None)}
    whole |= _judge_order(courses, clock, shared_tokens([cells[-1]]))
    return [whole, *(_summarize_block(course, rows, cells, measure) for course in courses)]


def _summarize_block(course: Course, rows: pl.DataFrame, cells: list[CellRecords], measure: str) -> dict[str, Any]:
    row: dict[str, Any] = {"layer": course.layer, "depth": course.depth, "rows": len(course.at)}
    rows, cells = rows[course.at], [cells[i] for i in course.at]
    tokens = shared_tokens([cells[0], cells[-1]])
    steps = rows["step"].to_numpy().astype(float)
    rise = jackknife_estimate(course.value[-2] - course.value[0], course.without[:, -2] - course.without[:, 0])
    start = jackknife_estimate(course.value[0], course.without[:, 0])
    row |= {"checkpoints": len(cells), "tokens": tokens.count, "bound": course.largest_bound}
    row |= estimate_columns("start", start)
    row |= _compare_ends(cells[0], cells[-1], course, tokens, measure) | _settling_columns(course, rows, steps)
    if not has_groups(tokens) or start.low is None or rise.low is None:
        return row | {"verdict": NO_ERRORS}
    is_still = start.low - course.bound[0] > SETTLED_SHARE
    has_risen = rise.low - course.bound[0] - course.bound[-2] > 0
    return row | {"verdict": STILL if is_still else SETTLES if has_risen else UNDECIDED_YET}


def _compare_ends(
    first: CellRecords, last: CellRecords, course: Course, tokens: ComparedTokens, measure: str
) -> dict[str, Any]:
    """Return the columns `start_null`, `start_p` and `start_types*` for the similarity of first and last checkpoint."""
    layers = first.layers[course.layer], last.layers[course.layer]
    row: dict[str, Any] = {"start_null": expected_similarity(measure, tokens)}
    row["start_p"] = permutation_p(*layers, tokens, measure, float(course.value[0]))
    return row | _compare_types(*layers, first.token_ids, tokens, measure)


def _settling_columns(course: Course, rows: pl.DataFrame, steps: Float64[np.ndarray, " checkpoints"]) -> dict[str, Any]:
    at = 2 ** find_settling(course.value, np.log2(steps + 1)) - 1
    low, high = _settling_interval(course, steps)
    row: dict[str, Any] = {"settled_at": at, "settled_at_low": low, "settled_at_high": high}
    seen = rows["tokens_seen"]
    return row | {"settled_tokens": None if seen.null_count() else float(np.interp(at, steps, seen.to_numpy()))}


def _settling_interval(course: Course, steps: Float64[np.ndarray, " checkpoints"]) -> tuple[float | None, float | None]:
    """Return the limits of the step at which a block settles; both are None if a similarity has no interval.

    The lower limit is the last step whose similarity is significantly below the target. The upper limit is the step
    after the last one whose similarity may be below the target. The intervals hold for single steps.
    """
    short = [
        jackknife_estimate(course.value[i] - _target(course.value), course.without[:, i] - _target(course.without.T))
        for i in range(len(steps))
    ]
    if any(each.low is None or each.high is None for each in short):
        return None, None
    surely_below = [i for i, each in enumerate(short) if each.high is not None and each.high < 0]
    maybe_below = [i for i, each in enumerate(short) if each.low is not None and each.low < 0 and i < len(steps) - 1]
    low = steps[surely_below[-1]] if surely_below else steps[0]
    high = steps[min(maybe_below[-1] + 1, len(steps) - 1)] if maybe_below else steps[0]
    return float(low), float(high)


def _target(similarity: np.ndarray) -> Any:
    """Return the similarity above which a block has settled; the first axis of `similarity` is that of checkpoints."""
    always = np.min(similarity, axis=0) >= SETTLED_SHARE
    return np.where(always, SETTLED_SHARE, similarity[0] + SETTLED_SHARE * (1 - similarity[0]))


def _compare_types(
    first: LayerRecord, last: LayerRecord, token_ids: np.ndarray, tokens: ComparedTokens, measure: str
) -> dict[str, float | None]:
    """Return the columns `start_types` and `start_types_null`; none if too few tokens remain or there is no value."""
    control = tokens.only(first_of_each(np.where(tokens.keep, token_ids, -1)))
    if control.count < tokens.count / 10 or not can_compare(control):
        return {}
    found = compare_layers([first], [last], control, measure).value[0, 0]
    if not np.isfinite(found):
        return {}
    return {"start_types": float(found), "start_types_null": expected_similarity(measure, control)}


def _judge_order(
    courses: list[Course], clock: Float64[np.ndarray, " checkpoints"], tokens: ComparedTokens
) -> dict[str, Any]:
    if len(courses) < MIN_BLOCKS:
        return {"verdict": TOO_FEW}
    parts = [fit_slope(courses, clock, group) for group in range(len(courses[0].without))]
    slope = jackknife_estimate(fit_slope(courses, clock), parts, SLOPE_LEVEL)
    row: dict[str, Any] = estimate_columns("slope", slope)
    if max(course.largest_bound for course in courses) > MAX_BOUND:
        return row | {"verdict": TRUNCATED}
    if any(find_settling(course.value, clock[course.at]) > clock[course.at[-2]] for course in courses):
        return row | {"verdict": UNSETTLED}
    if not has_groups(tokens) or slope.low is None or slope.high is None:
        return row | {"verdict": NO_ERRORS}
    claim = SUPPORTS if slope.low > TOGETHER else CONTRADICTS if slope.high < TOGETHER else UNDECIDED
    return row | {"verdict": _name_order(slope.low, slope.high), "claim": claim}


def _name_order(low: float, high: float) -> str:
    if max(-low, high) < TOGETHER:
        return SAME_TIME
    return LOWER_FIRST if low > 0 else UPPER_FIRST if high < 0 else UNDECIDED_YET
