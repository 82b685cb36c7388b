"""Tables behind the charts: a lake's rows with display names, and their encoding as JSON columns."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import polars as pl
import polars.selectors as cs

from pipeline.analysis.frames import (
    HISTORY_COLUMNS,
    NAME_SEPARATOR,
    select_block_rows,
    select_history_rows,
    select_newest_rows,
    t_quantile,
)
from pipeline.analysis.model_batches import ModelRows, match_names
from pipeline.analysis.phases import classify_by_estimator
from pipeline.analysis.random_baselines import RANDOM_CORPUS_PREFIX
from pipeline.analysis.trust import list_doubts
from pipeline.lake.reader import LakeReader
from pipeline.report.similarity_tables import layer_matrices, settling_curves

ESTIMATOR_LABELS = {"id_twonn": "TwoNN", "id_mle": "maximum likelihood", "id_authors": "published code"}
LANDMARK_PARTS = 4
"""Number of equal parts into which the blocks of a model are divided.

The first block and the last block of each part are landmarks: charts draw them bold, with error bands.
"""
PEAKLESS_VERDICTS = ("flat", "disputed", "no_errors", "too_few")
"""Verdicts on dimension over training for which charts mark no peak."""
SERIES_KEYS = ("history", "text", "kind")
GAP_ORDER, PEAK_ORDER = ("history", "text", "random", "step", "layer"), ("history", "text", "layer", "estimator")
VALUE_COLUMNS = (
    *("anisotropy", "anisotropy_se", "anisotropy_no_sink", "anisotropy_no_sink_se"),
    *("id_twonn", "id_twonn_se", "id_mle", "id_mle_se", "id_authors", "id_authors_se", "loss", "loss_se", "t"),
)
DIGITS, DIGITS_OF_ERRORS = 5, 3
"""Significant digits of values and of standard errors in JSON."""


class ChartTables(NamedTuple):
    """Tables behind the charts.

    In each table, `history` is the display name of a history, and `text` that of a corpus. The name of the recipe is
    part of `text` if the lake has several recipes.
    """

    layers: pl.DataFrame
    """One row per (history, text, step, layer). A history without steps has only the rows of its last label.

    `newest` is true in the rows of the newest checkpoint, `landmark` in those of landmark blocks. A 95 % interval is
    the value ± `t` standard errors: `t` is the 97.5 % quantile of Student's t for the number of groups.
    """
    steps: pl.DataFrame
    """Means over the blocks, one row per (history, text, step)."""
    gaps: pl.DataFrame
    """Values on text minus values on random tokens, one row per (history, text, `random`, step, layer).

    `random` is the corpus of random tokens. The differences are `anisotropy_gap` and `id_twonn_gap`, each with its
    `_se`.
    """
    peaks: pl.DataFrame
    """Step at which dimension is highest in training, one row per (history, text, layer, estimator).

    `layer` is null for the mean over the blocks. A curve whose verdict is in PEAKLESS_VERDICTS has no row.
    """
    similarity_layers: pl.DataFrame
    """Similarity of all pairs of layers, per history and text at the newest checkpoint with similarity records."""
    settling: pl.DataFrame
    """CKA of each block with its own last state, per history, text and step with similarity records."""

    def for_history(self, name: str) -> "ChartTables":
        """Select the rows of one history."""
        return ChartTables(*(table.filter(history=name) for table in self))

    @classmethod
    def concat(cls, parts: Sequence["ChartTables"]) -> "ChartTables":
        """Concatenate the tables of different models."""
        by_step = (*SERIES_KEYS, "step")
        orders = ((*by_step, "layer"), by_step, GAP_ORDER, PEAK_ORDER, SERIES_KEYS[:2], SERIES_KEYS[:2])
        each = zip(zip(*parts, strict=True), orders, strict=True)
        return cls(*(pl.concat(tables).sort(order, maintain_order=True) for tables, order in each))

    def downsample(self, most: int) -> "ChartTables":
        """Thin long histories to every n-th step, so that `layers` has about `most` rows.

        `layers` also keeps the last step of each history, the newest checkpoints and all rows without a step. `gaps`
        has every n-th step only. `steps` and `peaks` are not thinned.
        """
        nth = -(-self.layers.height // most)
        index, last = pl.col("step").rank("dense").over("history") - 1, pl.col("step").max().over("history")
        kept = (index % nth == 0) | (pl.col("step") == last) | pl.col("step").is_null() | pl.col("newest")
        return self._replace(layers=self.layers.filter(kept), gaps=self.gaps.filter(index % nth == 0))

    def for_overview(self) -> "ChartTables":
        """Select what the charts that compare all histories draw; `gaps` and `peaks` become empty.

        `layers` keeps the rows of the newest checkpoints and of the landmark blocks; `steps` keeps anisotropy only.
        """
        shown = pl.col("newest") | pl.col("landmark")
        means = self.steps.select(*SERIES_KEYS, "step", "anisotropy", "anisotropy_se", "anisotropy_no_sink", "t")
        empty = (table.clear() for table in self[2:])
        return ChartTables(self.layers.filter(shown), means, *empty)


def load_chart_rows(reader: LakeReader, models: str) -> pl.DataFrame:
    """Load the rows of all models whose name matches the glob `models`, with the columns `history`, `text` and `t`.

    Raises:
        UsageError: no model matches.
    """
    rows = ChartRows(reader, models)
    return rows.load(rows.models)


class ChartRows:
    """Loader of the rows of all models whose name matches the glob `models`.

    Memory grows with the models that are loaded at a time, not with the lake.

    Raises:
        UsageError: no model matches.
    """

    def __init__(self, reader: LakeReader, models: str) -> None:
        self._rows = ModelRows(reader)
        self.models = match_names("models", self._rows.models, models)
        self.counts = self._rows.counts.filter(pl.col("model").is_in(self.models))

    def load(self, models: list[str]) -> pl.DataFrame:
        """Load the rows of some of these models, with the columns `history`, `text` and `t`."""
        return self._add_names(self._rows.load(models))

    def batches(self) -> Iterator[pl.DataFrame]:
        """Yield the rows of all these models, a few models per frame, with the columns that `load` adds."""
        return map(self._add_names, self._rows.batches(self.models))

    def _add_names(self, frame: pl.DataFrame) -> pl.DataFrame:
        several = {name: pl.col(name).n_unique().over("model") > 1 for name in ("kind", "stage", "run")}
        recipes = pl.lit(self.counts["recipe"].n_unique() > 1)
        return frame.with_columns(
            history=pl.concat_str("model", *(_suffix_if_ambiguous(test, name) for name, test in several.items())),
            text=pl.concat_str("corpus", _suffix_if_ambiguous(recipes, "recipe")),
            t=t_quantile(pl.col("groups")),
        )


def _suffix_if_ambiguous(test: pl.Expr, name: str) -> pl.Expr:
    """Return ` · ` and the value of column `name` where `test` holds and the value is known, else an empty text."""
    return pl.when(test & pl.col(name).is_not_null()).then(pl.lit(NAME_SEPARATOR) + pl.col(name)).otherwise(pl.lit(""))


def build_chart_tables(frame: pl.DataFrame, with_slow: bool = True) -> ChartTables:
    """Build the chart tables from the rows of `load_chart_rows`.

    Args:
        with_slow: also fill `peaks`, `similarity_layers` and `settling`, which take most of the time; if false, these
            are empty.
    """
    trained, last = select_history_rows(frame), select_newest_rows(frame)
    labels = frame.select(*HISTORY_COLUMNS, *SERIES_KEYS[:2]).unique().sort(HISTORY_COLUMNS)
    label = [*HISTORY_COLUMNS, "revision", "step", "layer"]
    every = pl.concat([trained, last]).unique(label, maintain_order=True)
    every = every.join(last.select(*label, newest=pl.lit(True)), on=label, how="left", nulls_equal=True)
    marked = select_block_rows(every).filter(_landmark()).select(*label, landmark=pl.lit(True))
    every = every.join(marked, on=label, how="left", nulls_equal=True)
    every = every.join(_doubtful(frame), on=label, how="left", nulls_equal=True)
    every = every.with_columns(pl.col("newest", "landmark").fill_null(False), block=pl.col("state") == "block")
    kept = [*SERIES_KEYS, "revision", "step", "layer", "depth", "state", "block", "newest", "landmark", "doubt"]
    order = [*SERIES_KEYS, "step", "layer"]
    slow = frame if with_slow else frame.clear()
    return ChartTables(
        every.select(*kept, *VALUE_COLUMNS).sort(order),
        _steps(trained).sort(*SERIES_KEYS, "step"),
        _gaps(trained).sort(GAP_ORDER),
        _peaks(slow, labels, marked),
        layer_matrices(slow),
        settling_curves(slow),
    )


def _landmark() -> pl.Expr:
    last = pl.col("layer").max().over("history")
    ends = [(1 + (last - 1) * part / LANDMARK_PARTS).round() for part in range(LANDMARK_PARTS + 1)]
    return pl.any_horizontal(pl.col("layer") == end for end in ends)


def _doubtful(frame: pl.DataFrame) -> pl.DataFrame:
    """Return the keys of each unreliable row, with the reason as `doubt`; charts draw these rows as hollow points."""
    about = pl.col("about").is_in(["row", "label", "dimension"])
    doubts = list_doubts(frame).filter((pl.col("verdict") == "doubtful") & about)
    return doubts.group_by(*HISTORY_COLUMNS, "revision", "step", "layer").agg(doubt=pl.col("because").first())


def _steps(trained: pl.DataFrame) -> pl.DataFrame:
    """Average the values over the blocks of each step.

    The standard error of a mean is the mean of the blocks' standard errors, since all blocks read the same contexts.
    """
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
    peaks = classify_by_estimator(frame).filter(pl.col("estimator").is_in(list(ESTIMATOR_LABELS)))
    peaks = peaks.join(labels, on=HISTORY_COLUMNS, nulls_equal=True)
    bold = landmarks.select(*HISTORY_COLUMNS, "layer", "landmark").unique()
    peaks = peaks.join(bold, on=[*HISTORY_COLUMNS, "layer"], how="left", nulls_equal=True)
    steps = ["peak_step", "peak_step_low", "peak_step_high", "peak_value"]
    kept = peaks.select("history", "text", "layer", "landmark", "estimator", "verdict", *steps)
    kept = kept.filter(~pl.col("verdict").is_in(PEAKLESS_VERDICTS))
    return kept.with_columns(pl.col("landmark").fill_null(False)).sort(PEAK_ORDER)


def to_json_columns(frame: pl.DataFrame) -> dict[str, Any]:
    """Encode a frame for page.js: {"rows": number of rows, "columns": {name: column}}.

    A column is the list of its values. A column with few distinct values is {"words": distinct values, "at": for each
    row the index of its value in "words"}. Floats are rounded to DIGITS, standard errors to DIGITS_OF_ERRORS.
    """
    values, errors = cs.float() - cs.ends_with("_se"), cs.float() & cs.ends_with("_se")
    short = frame.with_columns(values.round_sig_figs(DIGITS), errors.round_sig_figs(DIGITS_OF_ERRORS))
    return {"rows": frame.height, "columns": {column.name: _json_column(column) for column in short.iter_columns()}}


def _json_column(column: pl.Series) -> list[Any] | dict[str, Any]:
    words, values = column.unique(maintain_order=True).to_list(), column.to_list()
    if 4 * len(words) > len(values):
        return values
    index = {word: i for i, word in enumerate(words)}
    return {"words": words, "at": [index[value] for value in values]}
