"""What the charts draw: a lake's rows named for people, and the few tables made of them."""

from fnmatch import fnmatchcase
from typing import NamedTuple

import polars as pl

from pipeline.analysis.frames import (
    HISTORY_COLUMNS,
    load_layer_rows,
    select_block_rows,
    select_history_rows,
    select_newest_rows,
)
from pipeline.analysis.phases import classify_by_estimator
from pipeline.analysis.student_t import t_quantile
from pipeline.analysis.trust import list_doubts
from pipeline.errors import UsageError
from pipeline.lake.reader import LakeReader

ESTIMATOR_LABELS = {"id_twonn": "TwoNN", "id_mle": "maximum likelihood", "id_authors": "published code"}
RANDOM_CORPUS_PREFIX = "random-"
LANDMARK_PARTS = 4
"""Each model's first block, and the last of each of so many equal parts, are drawn boldly and with errors."""
PEAKLESS_VERDICTS = ("flat", "disputed", "no_errors", "too_few")
"""Verdicts that give no peak to mark."""
SERIES_KEYS = ("history", "text", "kind")
VALUE_COLUMNS = (
    *("anisotropy", "anisotropy_se", "anisotropy_no_sink", "id_twonn", "id_twonn_se", "id_mle", "id_mle_se"),
    *("id_authors", "loss", "loss_se", "t"),
)


class ChartTables(NamedTuple):
    """What the charts draw. A history is named by `history`, a corpus with its recipe by `text`."""

    layers: pl.DataFrame
    """One row per (history, text, step, layer), and the newest labels of histories that state no step; `newest` and
    `landmark` mark what an overview shows, `t` is Student's 97.5 % for the row's errors."""
    steps: pl.DataFrame
    """Means over the blocks, one row per (history, text, step)."""
    gaps: pl.DataFrame
    """Text minus random tokens, one row per (history, text, `random`, step, layer)."""
    peaks: pl.DataFrame
    """Where each estimator of dimension is highest over training, by layer (null: the mean over blocks)."""

    def for_history(self, name: str) -> "ChartTables":
        """The rows of one history."""
        return ChartTables(*(table.filter(history=name) for table in self))

    def downsample(self, most: int) -> "ChartTables":
        """At most so many rows of layers: of each history only every n-th step, the first and the last among them."""
        nth = -(-self.layers.height // most)
        place, last = pl.col("step").rank("dense").over("history") - 1, pl.col("step").max().over("history")
        kept = (place % nth == 0) | (pl.col("step") == last) | pl.col("step").is_null() | pl.col("newest")
        return self._replace(layers=self.layers.filter(kept), gaps=self.gaps.filter(place % nth == 0))

    def for_overview(self) -> "ChartTables":
        """What the charts across histories need: newest profiles, landmarks, means."""
        seen = pl.col("newest") | pl.col("landmark")
        means = self.steps.select(*SERIES_KEYS, "step", "anisotropy", "anisotropy_se", "anisotropy_no_sink", "t")
        return ChartTables(self.layers.filter(seen), means, self.gaps.clear(), self.peaks.clear())


def load_chart_rows(reader: LakeReader, models: str) -> pl.DataFrame:
    """The rows of the models whose name matches, with `history`, `text` and `t`; UsageError where there are none."""
    frame = load_layer_rows(reader)
    known = frame["model"].unique().sort().to_list()
    if not (names := [name for name in known if fnmatchcase(name, models)]):
        there = ", ".join(known) or "nothing"
        raise UsageError(
            f"models {models!r}", f"none in lake {reader.uri}, which has {there}", "Name one, or a pattern"
        )
    several = {name: pl.col(name).n_unique().over("model") > 1 for name in ("kind", "stage", "run")}
    by_df = {df: t_quantile(df) for df in range(1, int(frame["groups"].max() or 1))}  # type: ignore[arg-type]
    return frame.filter(pl.col("model").is_in(names)).with_columns(
        history=pl.concat_str("model", *(_suffix_if_ambiguous(test, name) for name, test in several.items())),
        text=pl.concat_str("corpus", _suffix_if_ambiguous(pl.col("recipe").n_unique() > 1, "recipe")),
        t=(pl.col("groups") - 1).replace_strict(by_df, default=None, return_dtype=pl.Float64),
    )


def _suffix_if_ambiguous(test: pl.Expr, name: str) -> pl.Expr:
    """` · name` where it is needed to tell things apart."""
    return pl.when(test & pl.col(name).is_not_null()).then(pl.lit(" · ") + pl.col(name)).otherwise(pl.lit(""))


def build_chart_tables(frame: pl.DataFrame) -> ChartTables:
    """The tables of `chosen` rows."""
    trained, last = select_history_rows(frame), select_newest_rows(frame)
    labels = frame.select(*HISTORY_COLUMNS, *SERIES_KEYS[:2]).unique().sort(HISTORY_COLUMNS)
    label = [*HISTORY_COLUMNS, "revision", "step", "layer"]
    every = pl.concat([trained, last]).unique(label, maintain_order=True)
    every = every.join(last.select(*label, newest=pl.lit(True)), on=label, how="left", nulls_equal=True)
    marked = select_block_rows(every).filter(_landmark()).select(*label, landmark=pl.lit(True))
    every = every.join(marked, on=label, how="left", nulls_equal=True)
    every = every.join(_doubtful(frame), on=label, how="left", nulls_equal=True)
    every = every.with_columns(pl.col("newest", "landmark").fill_null(False), block=pl.col("state") == "block")
    kept = [
        *SERIES_KEYS,
        "revision",
        "step",
        "layer",
        "depth",
        "state",
        "block",
        "newest",
        "landmark",
        "doubt",
        *VALUE_COLUMNS,
    ]
    order = [*SERIES_KEYS, "step", "layer"]
    return ChartTables(
        every.select(kept).sort(order),
        _steps(trained).sort(*SERIES_KEYS, "step"),
        _gaps(trained).sort("history", "text", "random", "step", "layer"),
        _peaks(frame, labels, marked),
    )


def _landmark() -> pl.Expr:
    last = pl.col("layer").max().over("history")
    ends = [(1 + (last - 1) * part / LANDMARK_PARTS).round() for part in range(LANDMARK_PARTS + 1)]
    return pl.any_horizontal(pl.col("layer") == end for end in ends)


def _doubtful(frame: pl.DataFrame) -> pl.DataFrame:
    """Why rows are not to be believed, whatever of theirs is drawn."""
    found = list_doubts(frame).filter(
        (pl.col("verdict") == "doubtful") & pl.col("about").is_in(["row", "label", "dimension"])
    )
    return found.group_by(*HISTORY_COLUMNS, "revision", "step", "layer").agg(doubt=pl.col("because").first())


def _steps(trained: pl.DataFrame) -> pl.DataFrame:
    """A mean's error is taken as the mean of its layers' errors: they read the same contexts."""
    return select_block_rows(trained).group_by(*SERIES_KEYS, "step").agg(pl.col(VALUE_COLUMNS).mean())


def _gaps(trained: pl.DataFrame) -> pl.DataFrame:
    random = pl.col("corpus").str.starts_with(RANDOM_CORPUS_PREFIX)
    same = ["history", "recipe", "revision", "step", "layer", "weights_digest", "config_digest", "tokenizer_digest"]
    values = ["anisotropy", "anisotropy_se", "id_twonn", "id_twonn_se"]
    text = trained.filter(~random).select(*same, "text", "t", *values)
    null = trained.filter(random).select(*same, *values, random="corpus")
    both = text.join(null, on=same, suffix="_null")
    errors = {f"{name}_gap_se": _hypot(f"{name}_se") for name in ("anisotropy", "id_twonn")}
    differences = {f"{name}_gap": pl.col(name) - pl.col(f"{name}_null") for name in ("anisotropy", "id_twonn")}
    return both.select("history", "text", "random", "step", "layer", "t", **differences, **errors)


def _hypot(name: str) -> pl.Expr:
    return (pl.col(name) ** 2 + pl.col(f"{name}_null") ** 2).sqrt()


def _peaks(frame: pl.DataFrame, labels: pl.DataFrame, landmarks: pl.DataFrame) -> pl.DataFrame:
    found = (
        classify_by_estimator(frame)
        .filter(pl.col("estimator").is_in(list(ESTIMATOR_LABELS)))
        .join(labels, on=HISTORY_COLUMNS, nulls_equal=True)
    )
    bold = landmarks.select(*HISTORY_COLUMNS, "layer", "landmark").unique()
    found = found.join(bold, on=[*HISTORY_COLUMNS, "layer"], how="left", nulls_equal=True)
    steps = ["peak_step", "peak_step_low", "peak_step_high", "peak_value"]
    kept = found.select("history", "text", "layer", "landmark", "estimator", "verdict", *steps)
    kept = kept.filter(~pl.col("verdict").is_in(PEAKLESS_VERDICTS))
    return kept.with_columns(pl.col("landmark").fill_null(False)).sort("history", "text", "layer", "estimator")
