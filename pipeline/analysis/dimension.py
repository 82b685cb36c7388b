"""Curves of intrinsic dimension by estimator, and the vote of the scales at which dimension is estimated.

A scale is a range of neighbour ranks. TwoNN and the maximum-likelihood estimates read the same ratios of the first two
neighbour distances, so they are one scale; GRIDE at 4 and 16 and the Levina-Bickel average over 20 neighbours read more
distant neighbours. A verdict needs more than half of the scales that were measured with errors.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import polars as pl

from pipeline.analysis.claims import UNDECIDED, decide
from pipeline.analysis.curve_shapes import FALL, MAIN_SHARE, RISE
from pipeline.analysis.curves import JUDGED, tabulate_curves
from pipeline.analysis.frames import HISTORY_COLUMNS, select_block_rows
from pipeline.analysis.group_errors import ERROR_COLUMNS, add_errors, average_points

ESTIMATORS = {
    "id_mle": "ranks 1-2",
    "id_twonn": "ranks 1-2",
    "id_mle_c50": "ranks 1-2",
    "id_mle_c90": "ranks 1-2",
    "id_gride_4": "ranks 4-8",
    "id_gride_16": "ranks 16-32",
    "id_lb20": "ranks 1-20",
    "id_authors": "published code",
}
"""Name of the scale of each estimator."""
VOTERS = ("id_mle", "id_gride_4", "id_gride_16", "id_lb20", "id_authors")
"""Estimators that vote, one per scale, in the order in which they are preferred as `reference`."""
LAST_RESORT = "id_authors"
"""Estimator that votes only where no other scale has errors, since it also reads the ratios of ranks 1-2."""
SMALLEST_PEAK = 0.05
"""Height of a peak, as a share of dimension, from which it counts as a peak."""
DISPUTED, MANY_MOVES = "disputed", "oscillating"


class CurveWords(NamedTuple):
    """Names of the sequences of main moves that a curve may have."""

    names: Mapping[tuple[str, ...], str]
    """Name by sequence of directions, each `rise` or `fall`."""
    peaked: frozenset[str]
    """Names of the sequences in which a rise is followed by a fall."""

    def name(self, main: Sequence[Mapping[str, Any]]) -> str:
        """Return the name of a sequence of moves; `oscillating` for a sequence that has no name."""
        return self.names.get(tuple(move["direction"] for move in main), MANY_MOVES)


def make_words(**names: str) -> CurveWords:
    """Return the words of a finding; each argument is a sequence of moves, with its name as the value.

    A sequence is written as the initials of its moves: `rf` is a rise followed by a fall, and `none` is no move.
    """
    moves = {"r": RISE, "f": FALL}
    sequences = {tuple(moves[letter] for letter in key) if key != "none" else (): name for key, name in names.items()}
    return CurveWords(sequences, frozenset(name for key, name in names.items() if "rf" in key))


def select_log_dimension(
    frame: pl.DataFrame, estimators: Sequence[str] = tuple(ESTIMATORS), labels: bool = False
) -> pl.DataFrame:
    """Return the log of dimension by each estimator, one row per row of `frame` and estimator.

    Columns: the keys of a history, `revision` if `labels`, `layer`, `depth`, `state`, `step`, `contexts_digest`,
    `estimator`, and those of `add_errors`.
    """
    kept = [*HISTORY_COLUMNS, *(["revision"] if labels else []), "layer", "depth", "state", "step"]
    kept += ["contexts_digest", *ERROR_COLUMNS]
    each = [add_errors(frame, name, log=True).select(*kept, estimator=pl.lit(name)) for name in estimators]
    return pl.concat(each)


def average_blocks(points: pl.DataFrame) -> pl.DataFrame:
    """Return the mean over the blocks at each step, as points with null `layer` and `depth`.

    The mean is null at a step where a block has no value although it has one at another step.
    """
    blocks = select_block_rows(points).filter(pl.col("value").is_not_null().any().over(*_CURVE, "layer"))
    count = pl.col("layer").n_unique()
    complete = (count.over(*_CURVE, "step") == count.over(_CURVE)) & (
        pl.col("value").null_count().over(*_CURVE, "step") == 0
    )
    blocks = blocks.with_columns(pl.when(complete).then(pl.col(name)).alias(name) for name in ERROR_COLUMNS)
    means = average_points(blocks, [*_CURVE, "step", "contexts_digest"])
    blank = pl.lit(None, pl.Int16).alias("layer"), pl.lit(None, pl.Float64).alias("depth")
    return means.drop("rows").with_columns(*blank, state=pl.lit("block"))


_CURVE = (*HISTORY_COLUMNS, "estimator")


def classify_dimension(points: pl.DataFrame, by: Sequence[str], at: str, words: CurveWords) -> pl.DataFrame:
    """Classify curves of log dimension over the column `at`, one row per value of `by` and estimator.

    The columns are those of `tabulate_curves`, with heights and sizes of moves as shares of dimension, and:

    - `verdict`: name of the main moves in `words`; the `status` of a curve that is not judged
    - `smallest`: height from which a peak counts, as a share; the larger of SMALLEST_PEAK and MAIN_SHARE of the range
    - `claim` (there is an interior peak): `supports` if the verdict is in `words.peaked` and the height is
      significantly above `smallest`; `contradicts` if the height is significantly below it; else `undecided`
    - `peak_value`: dimension at the top
    - `scale`: scale of the estimator
    """
    curves = tabulate_curves(points, [*by, "estimator"], at)
    names = [words.name(main) if main is not None else None for main in curves["main"].to_list()]
    verdict = pl.coalesce(pl.Series("_word", names, pl.String), "status")
    least = pl.max_horizontal(pl.lit(SMALLEST_PEAK).log1p(), pl.col("range") * MAIN_SHARE)
    curves = curves.with_columns(verdict=verdict)
    peaked = pl.col("verdict").is_in(list(words.peaked))
    claim = decide(peaked & (pl.col("height_low") > least), pl.col("height_high") < least)
    shares = {name: pl.col(name).exp() - 1 for name in ("height", "height_low", "height_high")}
    curves = curves.with_columns(claim=claim, smallest=least.exp() - 1, peak_value=pl.col("top_value").exp())
    scale = pl.col("estimator").replace_strict(ESTIMATORS, return_dtype=pl.String)
    return curves.with_columns(scale=scale, moves=_as_shares("moves"), main=_as_shares("main"), **shares)


def _as_shares(moves: str) -> pl.Expr:
    sizes = [(pl.element().struct.field(name).exp() - 1).alias(name) for name in ("size", "size_low", "size_high")]
    rest = [pl.element().struct.field(name) for name in ("direction", "first", "last")]
    return pl.col(moves).list.eval(pl.struct(*rest, *sizes))


def vote(curves: pl.DataFrame, by: Sequence[str]) -> pl.DataFrame:
    """Let the scales of each curve vote on its verdict; return one row per value of `by`.

    The row is that of the first voter in the largest group of voters with the same verdict. The verdict becomes
    `disputed` unless the group has more than half of the scales that were judged. A curve without a judged scale keeps
    its status as verdict. New columns: `agreeing` (size of the group), `scales` (number of judged scales), `reference`
    (estimator of the row).
    """
    voters = curves.filter(pl.col("estimator").is_in(VOTERS)).with_columns(_rank=_rank_voters())
    voters = voters.with_columns(_judged=pl.col("status") == JUDGED)
    others = (pl.col("_judged") & (pl.col("estimator") != LAST_RESORT)).any().over(by)
    votes = pl.col("_judged") & ~(others & (pl.col("estimator") == LAST_RESORT))
    voters = voters.filter(votes | ~pl.col("_judged").any().over(by))
    voters = voters.with_columns(
        scales=pl.when("_judged").then(pl.len().over(by)).otherwise(0),
        agreeing=pl.when("_judged").then(pl.len().over(*by, "verdict")).otherwise(0),
    )
    first = voters.sort(-pl.col("agreeing").cast(pl.Int64), "_rank").group_by(by, maintain_order=True).first()
    won = (2 * pl.col("agreeing") > pl.col("scales")) | (pl.col("scales") == 0)
    decided = {"verdict": pl.when(won).then("verdict").otherwise(pl.lit(DISPUTED))}
    decided |= {"claim": pl.when(won).then("claim").otherwise(pl.lit(UNDECIDED))}
    return first.with_columns(**decided).rename({"estimator": "reference"}).drop("_rank", "_judged")


def _rank_voters() -> pl.Expr:
    ranks: dict[Any, int] = {name: rank for rank, name in enumerate(VOTERS)}
    return pl.col("estimator").replace_strict(ranks, return_dtype=pl.Int64)
