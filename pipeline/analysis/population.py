"""Comparison of one run with the band of all other runs of the same size in a lake, per metric, layer and step.

Runs have the same size if they have the same kind, number of blocks and width, and numbers of parameters that differ by
at most 5 %. The other runs are usually seeds of the same model. A band is the median and the 5th to 95th percentile of
the other runs, without the run itself.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import polars as pl

from pipeline.analysis.comparable import DEPTH_DIGITS
from pipeline.analysis.comparison import HEADLINE_METRICS
from pipeline.analysis.frames import RUN_COLUMNS, run_name, select_block_rows, select_history_rows
from pipeline.analysis.group_errors import select_value
from pipeline.analysis.model_batches import ModelRows
from pipeline.analysis.sides import Labels, Side, has_several_steps, match_corpora, select_side
from pipeline.errors import UsageError
from pipeline.lake.reader import LakeReader

SIZE_TOLERANCE = 0.05
"""Largest difference between the numbers of parameters of runs of the same size, as a share of that of the run."""
BAND = (0.05, 0.95)
MIN_RUNS_OF_BAND = 3
"""Smallest number of other runs for which a band is drawn."""
RUN_KEYS = ("model", "kind", "stage", "run")
ALIKE = ("kind", "corpus", "recipe", "recipe_fingerprint", "algorithm")
"""Columns whose values are the same for the run and for the other runs of its band."""
LACKS = {
    "corpus": "the other runs of its size have no corpus in common with it",
    "recipe": "the other runs of its size have no recipe in common with it",
    "recipe_fingerprint": "the recipes of the other runs of its size have the same name as its recipe but other fields",
    "algorithm": "the other runs of its size were measured by other versions of the algorithms",
    "step": "the other runs of its size have no step in common with it",
}
CURVE_KEYS = ("metric", "corpus", "recipe", "kind", "step", "layer", "depth", "state")
SIZES_SQL = """SELECT model, kind, max(n_params) AS n_params, max(d_model) AS d_model,
  max(n_layers) AS blocks FROM layers GROUP BY model, kind"""


class Population(NamedTuple):
    """Comparison of one run with the band of the other runs of its size."""

    run: Side
    others: tuple[str, ...]
    """Names of the other runs."""
    rows: pl.DataFrame
    """One row per metric, corpus, recipe, kind, step and layer (CURVE_KEYS). In rows for the mean over the blocks,
    `layer`, `depth` and `state` are null. Further columns:

    - `revision`, `value`: those of the run
    - `median`, `low`, `high`: median and percentiles 5 and 95 of the other runs, interpolated linearly between runs
    - `runs`: number of other runs at this step
    - `below`: share of the other runs whose value is below that of the run
    - `outside`: true if the value of the run is below or above those of all other runs
    """
    notes: tuple[str, ...]
    corpora: tuple[str, ...] = ()
    """Names or globs of the corpora that were asked for; empty for all corpora."""


def compute_population(reader: LakeReader, label: str, corpora: Sequence[str] = ()) -> Population:
    """Compare a run, or one of its checkpoints, with all other runs of its size.

    Only runs with the same corpus, recipe and version of the algorithms are compared. If the run is exchangeable with
    n others, its value is below or above all of theirs with probability 2 / (n + 1), at one layer and step. This is not
    corrected for the number of layers, steps and metrics.

    Raises:
        UsageError: the label is not in the lake, or fewer than three other runs of its size share a step with it.
    """
    rows = ModelRows(reader)
    side = Labels(reader, rows.models).parse(label)
    texts = [name for names in match_corpora(rows, corpora) for name in names]
    sizes = reader.query_frame(SIZES_SQL)
    loaded = rows.load(_find_models(sizes, side.model))
    side = _choose_run(loaded, side)
    frame = select_history_rows(loaded).join(_select_sizes(sizes, side.model), on=["model", "kind"], how="semi")
    frame = frame.filter(pl.col("corpus").is_in(texts)) if corpora else frame
    frame = frame.filter(pl.col("kind") == side.kind) if side.kind else frame
    long = pl.concat([_gather(frame, metric) for metric in HEADLINE_METRICS])
    is_mine = pl.all_horizontal(pl.col(name).eq_missing(pl.lit(getattr(side, name))) for name in RUN_COLUMNS)
    mine, others = long.filter(is_mine), long.filter(~is_mine)
    if side.revision is not None:
        mine = mine.filter(revision=side.revision)
    alike = others.join(mine, on=[*ALIKE, "step"], how="semi", nulls_equal=True)
    table = _set_against(mine, alike)
    if table.is_empty():
        do = "Measure other runs of this size on the same corpus, by the same recipe and at the same steps"
        raise UsageError(f"population of {side}", _describe_lack(mine, others), do)
    names = _name_runs(alike.join(table, on=["corpus", "recipe", "kind", "step"], how="semi"))
    fewest, most = table["runs"].min(), table["runs"].max()
    runs = f"{fewest}" if fewest == most else f"{fewest} to {most}"
    notes = [f"The ends of the band are percentiles 5 and 95 of {runs} other runs, not of all possible runs."]
    return Population(side, tuple(names), table, tuple(notes), tuple(corpora))


def _choose_run(frame: pl.DataFrame, side: Side) -> Side:
    """Return the side with its stage and run; UsageError if its model has several runs, or lacks the revision."""
    found, _ = select_side(frame, side, whole=side.revision is None and has_several_steps(frame, side))
    return found._replace(revision=side.revision)


def _find_models(sizes: pl.DataFrame, model: str) -> list[str]:
    return _select_sizes(sizes, model)["model"].unique().sort().to_list()


def _select_sizes(sizes: pl.DataFrame, model: str) -> pl.DataFrame:
    """Select the rows (`model`, `kind`) of `sizes` that have the size of the model called `model`, itself included.

    The size is the kind, width and number of blocks, and the number of parameters within SIZE_TOLERANCE.
    """
    mine = sizes.filter(pl.col("model") == model).select("kind", "d_model", "blocks", _own="n_params")
    both = sizes.join(mine, on=["kind", "d_model", "blocks"])
    near = (pl.col("n_params") - pl.col("_own")).abs() <= SIZE_TOLERANCE * pl.col("_own")
    return both.filter(near).select("model", "kind")


def _gather(frame: pl.DataFrame, metric: str) -> pl.DataFrame:
    """Return the values of one metric in each layer, and the means over the blocks, as rows with null `layer`.

    The loss has one value per checkpoint, so only its mean is returned. For every metric, the mean of a checkpoint is
    left out if one of its blocks lacks a value that other checkpoints have in this block.
    """
    keys = [*RUN_KEYS, "revision", *ALIKE[1:], "step"]
    values = frame.select(
        *keys,
        "layer",
        "state",
        depth=pl.col("depth").round(DEPTH_DIGITS),
        metric=pl.lit(metric),
        value=select_value(metric),
    ).drop_nulls("value")
    blocks = select_block_rows(values).with_columns(needed=pl.col("layer").n_unique().over(ALIKE))
    whole = blocks.filter(pl.col("layer").n_unique().over(keys) == pl.col("needed"))
    means = whole.group_by(*keys, "metric").agg(pl.col("value").mean())
    blank = {"layer": pl.lit(None, pl.Int16), "depth": pl.lit(None, pl.Float64), "state": pl.lit(None, pl.String)}
    columns = [*keys, "metric", "layer", "depth", "state", "value"]
    parts = [means.with_columns(**blank).select(columns), values.select(columns)]
    return pl.concat(parts[: 1 if metric == "loss" else 2])


def _set_against(mine: pl.DataFrame, others: pl.DataFrame) -> pl.DataFrame:
    on = [*dict.fromkeys((*CURVE_KEYS, *ALIKE))]
    both = mine.join(others.rename({"value": "other"}), on=on, nulls_equal=True)
    other, value = pl.col("other"), pl.col("value").first()
    below = (other < value).mean()
    found = both.group_by([*CURVE_KEYS, "revision"], maintain_order=True).agg(
        value=value,
        median=other.median(),
        low=other.quantile(BAND[0], "linear"),
        high=other.quantile(BAND[1], "linear"),
        runs=pl.len(),
        below=below,
        outside=(value < other.min()) | (value > other.max()),
    )
    order = {name: at for at, name in enumerate(HEADLINE_METRICS)}
    rank = pl.col("metric").replace_strict(order, return_dtype=pl.Int64)
    return found.filter(pl.col("runs") >= MIN_RUNS_OF_BAND).sort(rank, *CURVE_KEYS[1:], nulls_last=False)


def _describe_lack(mine: pl.DataFrame, others: pl.DataFrame) -> str:
    names = _name_runs(others)
    if mine.is_empty():
        return "it has no value with a reliable step"
    if not names:
        return "no other run of its kind, blocks, width and parameters is in the lake"
    if len(names) < MIN_RUNS_OF_BAND:
        return f"only {len(names)} other runs of its size ({', '.join(names)}); {MIN_RUNS_OF_BAND} are needed"
    for name, lack in LACKS.items():
        if not {*mine[name]} & {*others[name]}:
            return lack
    return f"no step of it has {MIN_RUNS_OF_BAND} other runs"


def _name_runs(rows: pl.DataFrame) -> list[str]:
    return rows.select(name=run_name())["name"].unique().sort().to_list()


def summarize_population(found: Population) -> list[dict[str, Any]]:
    """Return one row per metric, corpus, recipe and kind, as dictionaries.

    Each is the row of the mean over the blocks at the last step, with three more columns. `points` is the number of
    layers and steps, means included. `outside_share` is the share of these points at which the run is outside the
    others. `chance` is the probability of this at one point if the runs are exchangeable.
    """
    table, keys = found.rows, ["metric", "corpus", "recipe", "kind"]
    last = table.filter(pl.col("layer").is_null())
    last = last.filter(pl.col("step") == pl.col("step").max().over(keys))
    apart = table.group_by(keys).agg(outside_share=pl.col("outside").mean(), points=pl.len())
    chance = 2 / (pl.col("runs") + 1)
    return last.join(apart, on=keys, maintain_order="left").with_columns(chance=chance).to_dicts()
