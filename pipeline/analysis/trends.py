"""Anisotropy, effective rank and spectral decay over training, for comparison with the phases of Li et al. 2025.

Anisotropy is the mean over the blocks. RankMe, the effective rank, and alpha, the spectral decay, are those of the last
hidden state, which Li et al. use. If the model has a final norm, this is the state after it.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import polars as pl

from pipeline.analysis.claims import decide, describe_claim, describe_left_out, describe_pairing
from pipeline.analysis.curves import JUDGED, TOO_FEW, start_share, tabulate_curves
from pipeline.analysis.dimension import MANY_MOVES, SMALLEST_PEAK, make_words
from pipeline.analysis.frames import (
    HISTORY_COLUMNS,
    LakeOrFrame,
    add_because_column,
    format_interval,
    load_layer_rows,
    select_block_rows,
    select_history_rows,
    select_last_states,
)
from pipeline.analysis.group_errors import add_errors, average_points, subtract_rows
from pipeline.analysis.rank_mirror import MIRROR_TYPES, measure_mirroring

WORDS = make_words(
    none="flat", r="rising", f="falling", rf="rise-fall", fr="fall-rise", frf="fall-rise-fall", rfr="rise-fall-rise"
)
SMALLEST_RISE = 0.05
"""Change of mean anisotropy, from the first to the last checkpoint, above which it counts as a rise."""
ENDS = ("", "_low", "_high")


class Trend(NamedTuple):
    """A metric that is followed over training, and the claim about it."""

    title: str
    effect: str
    """Column of the effect that the claim is about: `change`, `peak` or `mirror`."""
    claim: str
    bound: float
    """Bound of the effect: a significantly larger effect supports the claim, and a significantly smaller one
    contradicts it."""
    log: bool = False
    """True if the curve is that of the logarithm, so that changes are shares of the value."""
    of_blocks: bool = False
    """True for the mean over the blocks, false for the value of the last hidden state."""


RISES, PEAKS = "anisotropy rises over training", "the effective rank expands and then compresses in training"
MIRRORS = "the spectral decay alpha falls while the effective rank expands and rises while it compresses"
TRENDS = {
    "anisotropy": Trend("Anisotropy", "change", RISES, SMALLEST_RISE, of_blocks=True),
    "anisotropy_no_sink": Trend("Anisotropy without sink tokens", "change", RISES, SMALLEST_RISE, of_blocks=True),
    "effective_rank_sigma": Trend("RankMe", "peak", PEAKS, SMALLEST_PEAK, log=True),
    "effective_rank_sigma_no_sink": Trend("RankMe without sink tokens", "peak", PEAKS, SMALLEST_PEAK, log=True),
    "alpha": Trend("Alpha", "mirror", MIRRORS, SMALLEST_PEAK),
    "alpha_no_sink": Trend("Alpha without sink tokens", "mirror", MIRRORS, SMALLEST_PEAK),
}
RANK_OF = {"alpha": "effective_rank_sigma", "alpha_no_sink": "effective_rank_sigma_no_sink"}
"""Metric of effective rank with which each metric of alpha is compared."""
LARGEST_CORRELATION = -0.5
"""Alpha mirrors the rank only if the correlation `with_rank` is significantly below this."""


def compute_trends(lake: LakeOrFrame) -> pl.DataFrame:
    """Classify the curves of anisotropy, RankMe and alpha over training.

    Columns, one row per history and metric of TRENDS:

    - the keys of a history, `metric`
    - `verdict`:
        - `flat`: the metric does not change significantly.
        - `rising`, `falling`, `rise-fall`, `fall-rise`, `fall-rise-fall`, `rise-fall-rise`: these are its main moves.
          Li et al. report `fall-rise-fall` for RankMe and `rise-fall-rise` for alpha.
        - `oscillating`: it has more main moves.
        - `too_few`: the metric is known at fewer than three steps.
        - `no_errors`: it has no standard errors.
    - `claim`: answer to the claim in TRENDS, `supports`, `contradicts` or `undecided`
    - `change`: value at the last checkpoint minus that at the first
    - `peak`: largest height of an interior checkpoint above both sides
    - `valley`: largest depth of an interior checkpoint below both sides
    - `change`, `peak` and `valley` have 95 % intervals in the columns with the endings `_low` and `_high`; those of
      peak and valley are simultaneous over all differences of the curve. For RankMe, all three are shares of the value.
    - `mirror`, `with_rank` with 95 % intervals, `rank_start`, `rank_peak`, `rank_stop`: comparison of alpha with
      RankMe, as in `rank_mirror.measure_mirroring`; null for other metrics, and if RankMe has no significant peak
    - `peak_step`, `valley_step`: step of the peak or of the highest value, and of the valley or of the lowest value
    - `first`, `last`, `start_share`: first and last step, and the first as a share of the last
    - `rows`: number of steps of the curve
    - `paired`: true if the errors are paired
    - `left_out`: steps without a value or an error
    - `because`: the result in a few sentences
    """
    frame = select_history_rows(load_layer_rows(lake))
    points = {metric: _gather(frame, metric) for metric in TRENDS}
    found = pl.concat([_add_claim(_classify(points[metric], metric), metric, points) for metric in TRENDS])
    return add_because_column(found.sort(*HISTORY_COLUMNS, "metric"), _sentence).drop("status")


def _gather(frame: pl.DataFrame, metric: str) -> pl.DataFrame:
    """Return the points of a metric, one per history and step, with the columns of `add_errors`."""
    rows = select_block_rows(frame) if TRENDS[metric].of_blocks else select_last_states(frame)
    rows = rows.filter(pl.col(metric).is_not_null().any().over(*HISTORY_COLUMNS, "layer"))
    points = average_points(add_errors(rows, metric, TRENDS[metric].log), [*HISTORY_COLUMNS, "step", "contexts_digest"])
    full = pl.col("rows") == pl.col("rows").max().over(HISTORY_COLUMNS)
    return points.with_columns(pl.when(full).then(name).alias(name) for name in ("value", "se")).drop("rows")


def _classify(points: pl.DataFrame, metric: str) -> pl.DataFrame:
    trend, by = TRENDS[metric], list(HISTORY_COLUMNS)
    curves = tabulate_curves(points, by, "step")
    mirrored = tabulate_curves(points.with_columns(-pl.col("value")), by, "step")
    depth = mirrored.select(*by, valley_step="top", **{f"valley{end}": f"height{end}" for end in ENDS})
    found = curves.rename({"top": "peak_step", **{f"height{end}": f"peak{end}" for end in ENDS}})
    found = found.join(depth, on=by, nulls_equal=True).join(_measure_changes(points), on=by, nulls_equal=True)
    if trend.log:
        names = [f"{name}{end}" for name in ("change", "peak", "valley") for end in ENDS]
        found = found.with_columns(pl.col(name).exp() - 1 for name in names)
    verdicts = [WORDS.name(main) if main is not None else None for main in found["main"].to_list()]
    verdict = pl.coalesce(pl.Series("_word", verdicts, pl.String), "status")
    found = found.with_columns(verdict=verdict, metric=pl.lit(metric))
    numbers = [f"{name}{end}" for name in ("change", "peak", "valley") for end in ENDS]
    steps = {name: pl.col(name).cast(pl.Int64) for name in ("peak_step", "valley_step", "start", "stop")}
    left = pl.col("left_out").list.eval(pl.element().cast(pl.Int64))
    found = found.with_columns(left_out=left, **steps).rename({"start": "first", "stop": "last"})
    found = found.with_columns(start_share=start_share("first", "last"))
    kept = ["metric", "verdict", *numbers, "peak_step", "valley_step", "first", "last", "start_share"]
    return found.select(*by, *kept, "rows", "paired", "left_out", "status")


def _add_claim(found: pl.DataFrame, metric: str, points: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """Add the answer to the claim of the metric's trend, and the columns of MIRROR_TYPES."""
    found, trend, judged = _add_mirror(found, metric, points), TRENDS[metric], pl.col("status") == JUDGED
    low, high = pl.col(f"{trend.effect}_low") > trend.bound, pl.col(f"{trend.effect}_high") < trend.bound
    if metric in RANK_OF:
        low &= pl.col("with_rank_high") < LARGEST_CORRELATION
        high |= pl.col("with_rank_low") > LARGEST_CORRELATION
    return found.with_columns(claim=decide(judged & low, judged & high))


def _add_mirror(found: pl.DataFrame, metric: str, points: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """Add the columns of MIRROR_TYPES.

    They are null unless the metric is an alpha and the effective rank of the history has a significant peak.
    """
    if metric not in RANK_OF:
        return found.with_columns(pl.lit(None, kind).alias(name) for name, kind in MIRROR_TYPES.items())
    name = RANK_OF[metric]
    peaked = _classify(points[name], name).filter(pl.col("verdict").is_in(list(WORDS.peaked)))
    mirrors = measure_mirroring(points[metric], points[name], peaked.select(*HISTORY_COLUMNS, "peak_step"))
    return found.join(mirrors, on=HISTORY_COLUMNS, how="left", nulls_equal=True)


def _measure_changes(points: pl.DataFrame) -> pl.DataFrame:
    """Return the `change` from the first to the last checkpoint of each history, with its interval."""
    rows = list(_each_change(points.drop_nulls("value").sort("step")))
    types = {name: points.schema[name] for name in HISTORY_COLUMNS} | {f"change{end}": pl.Float64() for end in ENDS}
    return pl.DataFrame(rows, schema=types, orient="row")


def _each_change(points: pl.DataFrame) -> Iterator[tuple[Any, ...]]:
    for part in points.partition_by(HISTORY_COLUMNS, maintain_order=True):
        first, last = part.row(0, named=True), part.row(-1, named=True)
        change = subtract_rows(last, first)[0] if part.height > 1 else (None, None, None)
        yield (*(first[name] for name in HISTORY_COLUMNS), *change)


def _sentence(row: dict[str, Any]) -> str:
    trend = TRENDS[row["metric"]]
    subject = f"{trend.title} ({'mean over blocks' if trend.of_blocks else 'last hidden state'})"
    left_out = describe_left_out(row["left_out"], "step", "d")
    if row["verdict"] == TOO_FEW:
        return f"{subject} is known at fewer than three steps.{left_out}"
    form = "+.0%" if trend.log else "+.3f"
    change = f"changes by {format_interval(row, 'change', form)} from step {row['first']} to {row['last']}"
    if row["status"] != JUDGED:
        return f"{subject} {change}; its points have no standard errors.{left_out}"
    word = "moves up and down" if row["verdict"] == MANY_MOVES else f"is {row['verdict']}"
    text = f"{subject} {word} over training and {change}"
    if trend.effect == "peak":
        extreme = format_interval(row, trend.effect, form.removeprefix("+"))
        text += f"; at step {row['peak_step']} it is {extreme} above both sides"
    if trend.effect == "mirror":
        text += f"; {_describe_mirror(row)}"
    return f"{text}. {describe_claim(row['claim'], trend.claim)}{describe_pairing(row)}{left_out}"


def _describe_mirror(row: dict[str, Any]) -> str:
    if row["mirror"] is None:
        return "RankMe has no significant peak to compare it with"
    steps = f"from step {row['rank_start']} to {row['rank_peak']}", f"to step {row['rank_stop']}"
    size = f"at least {format_interval(row, 'mirror', '.3f')}"
    together = f"their correlation meanwhile is {format_interval(row, 'with_rank', '.2f')}"
    moves = f"while RankMe expands ({steps[0]}) it falls, and while RankMe compresses ({steps[1]}) it rises"
    return f"{moves}, by {size}; {together}"
