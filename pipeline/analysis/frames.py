"""The one seam between a lake and its findings: the rows as a frame, which rows make a history, and its curves."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from pipeline.analysis.curve_shapes import classify_curves
from pipeline.lake.lake import RECIPES_PREFIX, Lake
from pipeline.lake.reader import LakeReader

LakeOrFrame = LakeReader | pl.DataFrame
"""A lake, or a frame that `rows` made of one."""
HISTORY_COLUMNS = ("model", "kind", "stage", "run", "corpus", "recipe")
"""What one history is the history of; steps of different stages need not follow each other."""
LABEL_COLUMNS = ("revision", "step")
NEEDED_COLUMNS = (
    *(
        "cell_id",
        "model",
        "kind",
        "stage",
        "run",
        "corpus",
        "corpus_sha256",
        "recipe",
        "revision",
        "step",
        "weights_digest",
    ),
    *("config_digest", "tokenizer_digest", "duplicate_of", "superseded", "n_params", "d_model", "context_tokens"),
    *("layer", "depth", "state", "n_tokens", "n_sink_tokens", "n_points", "n_duplicates", "n_near_duplicates"),
    *("n_nonfinite", "n_unresolved", "same_context_share", "noise_ratio", "anisotropy", "anisotropy_se"),
    *(
        "anisotropy_no_sink",
        "anisotropy_no_sink_se",
        "sink_variance_share",
        "total_variance",
        "id_authors",
        "id_twonn",
        "id_twonn_se",
        "id_mle",
    ),
    *("id_mle_se", "id_mle_c50", "id_mle_c50_se", "id_mle_c90", "id_mle_c90_se", "id_gride_k", "id_gride"),
    *("id_gride_se", "id_ks", "loss", "loss_se", "status", "flags"),
)
AUDIT_KEYS = ("model", "revision", "weights_digest")
MIN_CURVE_POINTS = 3
"""Points of a curve that can have an interior peak."""
TOO_FEW, NO_ERRORS = "too_few", "no_errors"


def load_layer_rows(lake: LakeOrFrame) -> pl.DataFrame:
    """The columns that findings rest on, with `groups` and `audit`; a frame as it is.

    `groups`: what the recipe's errors are taken over, null where the lake has no record of it. `audit`: what an audit
    said of the checkpoint, null without one. Texts of one corpus name are `told_apart`.
    """
    if isinstance(lake, pl.DataFrame):
        return lake
    names = ", ".join(f'"{name}"' for name in NEEDED_COLUMNS)
    frame = lake.query_frame(f"SELECT {names} FROM layers").join(_groups(lake.uri), on="recipe", how="left")
    frame = frame.join(_audits(lake), on=AUDIT_KEYS, how="left")
    return disambiguate_corpora(frame).sort(*HISTORY_COLUMNS, "step", "revision", "layer", "cell_id")


def disambiguate_corpora(frame: pl.DataFrame) -> pl.DataFrame:
    """Texts of different content under one corpus name get the head of their digest into it."""
    several = pl.col("corpus_sha256").n_unique().over("corpus") > 1
    named = pl.concat_str("corpus", pl.lit("#"), pl.col("corpus_sha256").fill_null("none").str.head(8))
    return frame.with_columns(corpus=pl.when(several).then(named).otherwise("corpus"))


def _groups(uri: str | Path) -> pl.DataFrame:
    store = Lake(uri).store
    records = [json.loads(store.get(key)) for key in store.list(RECIPES_PREFIX) if key.endswith(".json")]
    found = [(f"{record['name']}@{record['version']}", record.get("groups", 1)) for record in records]
    return pl.DataFrame(found, schema={"recipe": pl.String, "groups": pl.Int64}, orient="row")


def _audits(lake: LakeReader) -> pl.DataFrame:
    """The state of each audited checkpoint; none in a lake whose checkpoints do not have it."""
    known = lake.checkpoints()
    if "audit" not in known.columns:
        return pl.DataFrame(schema=dict.fromkeys((*AUDIT_KEYS, "audit"), pl.String))
    return known.pl().select(*AUDIT_KEYS, "audit").drop_nulls().group_by(AUDIT_KEYS).agg(pl.col("audit").first())


def select_history_rows(frame: pl.DataFrame) -> pl.DataFrame:
    """The rows of labels that state a step and can be believed to.

    Superseded labels are out; so are labels of equal weights with different steps, of which at most one is right.
    """
    one_step = pl.col("step").n_unique().over(*HISTORY_COLUMNS, "layer", "weights_digest") == 1
    stated = frame.filter(pl.col("step").is_not_null() & ~pl.col("superseded").fill_null(False))
    return stated.filter(one_step).unique([*HISTORY_COLUMNS, "layer", "step"], keep="first", maintain_order=True)


def select_newest_rows(frame: pl.DataFrame) -> pl.DataFrame:
    """The rows of one label of each history: the last step that can be believed; any where no step is stated."""
    current = frame.filter(~pl.col("superseded").fill_null(False))
    steps = select_history_rows(current)
    without = current.filter(pl.col("step").is_null()).join(steps, on=HISTORY_COLUMNS, how="anti", nulls_equal=True)
    both = pl.concat([steps, without])
    last = both.sort("step", "revision", nulls_last=False).group_by(HISTORY_COLUMNS).agg(pl.col("revision").last())
    return both.join(last, on=[*HISTORY_COLUMNS, "revision"], nulls_equal=True)


def select_block_rows(frame: pl.DataFrame) -> pl.DataFrame:
    """The outputs of the blocks: neither the embedding nor the state after the final norm, another kind of object."""
    return frame.filter(pl.col("state") == "block")


def tabulate_curve_shapes(
    frame: pl.DataFrame, by: Sequence[str], at: str, value: str, se: str, words: Mapping[str, str], ends: bool = False
) -> pl.DataFrame:
    """The shape of `value` over `at`, one row per curve.

    Columns: `by`, `verdict` (through `words`; `too_few` under three points, `no_errors` where the rows state none),
    `rows`, `top` with `top_low` and `top_high` (where the highest point or the peak lies), `top_value`, and `height`
    of the peak above both sides with its 95 % interval `height_low`, `height_high`. Without errors no intervals.
    """
    points = frame.filter(pl.col(value).is_not_null())
    sound = pl.col(se).is_not_null() & (pl.col("groups") > 1).fill_null(False)
    points = points.with_columns(_sound=sound, _enough=sound.sum().over(*by) >= MIN_CURVE_POINTS)
    points = points.filter(pl.col("_sound") | ~pl.col("_enough")).sort(at)
    gathered = points.group_by(*by, maintain_order=True).agg(
        pl.col(at).alias("at"),
        pl.col(value).alias("value"),
        pl.col(se).fill_null(0.0).alias("se"),
        pl.col("_enough").first(),
        (pl.col("groups").min() - 1).fill_null(1).clip(lower_bound=1).alias("df"),
        pl.len().alias("rows"),
    )
    batches = gathered.partition_by("rows", "df", "_enough", maintain_order=True)
    empty = gathered.clear().with_columns(**{name: pl.lit(None, kind) for name, kind in _SHAPE.items()})
    judged = pl.concat([empty, *(_judged(batch, words, ends) for batch in batches)])
    return judged.drop("at", "value", "se", "_enough", "df")


_SHAPE = {"verdict": pl.String} | dict.fromkeys(
    ("top", "top_low", "top_high", "top_value", "height", "height_low", "height_high"), pl.Float64
)


def _judged(batch: pl.DataFrame, words: Mapping[str, str], ends: bool) -> pl.DataFrame:
    at, value, se = (np.array(batch[name].to_list(), float) for name in ("at", "value", "se"))
    each, points, df = np.arange(len(batch)), batch["rows"][0], batch["df"][0]
    none = [None] * len(batch)
    if points < MIN_CURVE_POINTS:
        top = value.argmax(1)
        found: dict[str, Any] = dict.fromkeys(_SHAPE, none) | {"verdict": [TOO_FEW] * len(batch)}
        found |= {"top": at[each, top], "top_value": value[each, top]}
    else:
        shape = classify_curves(value, se, df, ends)
        found = {"verdict": [words[word] for word in shape.shape_name.tolist()], "height": shape.height}
        found |= {"top": at[each, shape.top], "top_value": value[each, shape.top]}
        found |= {"top_low": at[each, shape.peak_first], "top_high": at[each, shape.peak_last]}
        found |= {"height_low": shape.height_low, "height_high": shape.height_high}
        if not batch["_enough"][0]:
            found |= {"verdict": [NO_ERRORS] * len(batch)}
            found |= dict.fromkeys(("top_low", "top_high", "height_low", "height_high"), none)
    return batch.with_columns(*(pl.Series(name, found[name], kind) for name, kind in _SHAPE.items()))


def add_because_column(frame: pl.DataFrame, sentence: Callable[[dict[str, Any]], str]) -> pl.DataFrame:
    """The frame with `because`: one sentence per row that a report can print."""
    return frame.with_columns(pl.Series("because", [sentence(row) for row in frame.iter_rows(named=True)], pl.String))


def format_interval(row: Mapping[str, Any], name: str, form: str = ".3f", level: str = "95 %") -> str:
    """`0.412 (95 % 0.380 to 0.444)`; without an interval the value alone, without a value `unknown`.

    `level`: how often such an interval holds.
    """
    value, low, high = (row[key] for key in (name, f"{name}_low", f"{name}_high"))
    if value is None:
        return "unknown"
    return f"{value:{form}}" + (f" ({level} {low:{form}} to {high:{form}})" if low is not None else "")
