"""Text against random tokens: which conclusions are about language, and which hold for any input at all?"""

from typing import Any

import polars as pl

from pipeline.analysis.dome import compute_newest_domes
from pipeline.analysis.frames import LakeOrFrame, add_because_column, load_layer_rows
from pipeline.analysis.phases import EXPAND_COMPRESS, compute_phases

RANDOM_CORPUS_PREFIX = "random-"
CHECKPOINT_KEYS = ("model", "kind", "stage", "run", "recipe", "weights_digest", "config_digest", "tokenizer_digest")
"""Rows equal in these are of one checkpoint by one recipe."""
PAIR_KEYS = ("model", "kind", "stage", "run", "corpus", "null", "recipe")
SIDE_KEYS = ("model", "kind", "stage", "run", "recipe", "layer")
VERDICTS = ("survives", "text_only", "random_only", "neither", "unknown")


def compute_null_survival(lake: LakeOrFrame) -> pl.DataFrame:
    """Which conclusions drawn on a text also hold on random tokens, of the checkpoints that were measured on both.

    Columns: `model`, `kind`, `stage`, `run`, `corpus` (the text), `null` (random-uniform, random-unigram), `recipe`,
    `conclusion` (dome; dome_no_sink; phases; peak_step = both expand and compress and their peaks may be one), `layer`
    (null = the model), `verdict` (survives, text_only, random_only, neither; unknown where one side has no verdict),
    `on_text`, `on_null`, `difference` of the heights, text - random, with an interval that holds in 90 % at least: the
    sum of both; `rows`, `because`. A conclusion that survives is no evidence about language.
    """
    frame = load_layer_rows(lake)
    corpora = frame["corpus"].unique().sort().to_list()
    texts, nulls = (
        [name for name in corpora if name.startswith(RANDOM_CORPUS_PREFIX) == random] for random in (False, True)
    )
    found = [_survival(frame, text, null) for text in texts for null in nulls]
    return pl.concat([_survival(frame.clear(), "", ""), *found]).sort(
        "conclusion", *PAIR_KEYS, "layer", nulls_last=True
    )


def _survival(frame: pl.DataFrame, text: str, null: str) -> pl.DataFrame:
    sides = [frame.filter(corpus=text), frame.filter(corpus=null)]
    on = [*CHECKPOINT_KEYS, "layer"]
    one, other = (a.join(b, on=on, how="semi", nulls_equal=True) for a, b in (sides, sides[::-1]))
    domes = [compute_newest_domes(side).with_columns(layer=pl.lit(None, pl.Int16)) for side in (one, other)]
    kept = ["verdict", "height", "height_low", "height_high", "rows"]
    no_sink = {f"no_sink_{name}": name for name in kept[:-1]}
    bare = [side.drop(kept[:-1]).rename(no_sink) for side in domes]
    histories = [compute_phases(side) for side in (one, other)]
    joined = [
        _pair(domes, kept, "dome", "dome"),
        _pair(bare, kept, "dome_no_sink", "dome"),
        _pair(histories, kept, "phases", EXPAND_COMPRESS),
        _same_step(histories, kept),
    ]
    table = pl.concat(joined).with_columns(corpus=pl.lit(text), null=pl.lit(null))
    columns = [*PAIR_KEYS, "conclusion", "layer", "verdict", "on_text", "on_null"]
    columns += ["difference", "difference_low", "difference_high", "rows"]
    return add_because_column(table.select(columns), _sentence)


def _pair(sides: list[pl.DataFrame], kept: list[str], conclusion: str, holds: str) -> pl.DataFrame:
    text, random = (side.select(*SIDE_KEYS, *kept) for side in sides)
    both = text.join(random, on=SIDE_KEYS, nulls_equal=True, suffix="_null")
    here, there = (pl.col(name) == holds for name in ("verdict", "verdict_null"))
    return both.select(
        *SIDE_KEYS,
        pl.lit(conclusion).alias("conclusion"),
        _word(here, there, _known("verdict") & _known("verdict_null")).alias("verdict"),
        pl.col("verdict").alias("on_text"),
        pl.col("verdict_null").alias("on_null"),
        (pl.col("height") - pl.col("height_null")).alias("difference"),
        (pl.col("height_low") - pl.col("height_high_null")).alias("difference_low"),
        (pl.col("height_high") - pl.col("height_low_null")).alias("difference_high"),
        (pl.col("rows") + pl.col("rows_null")).alias("rows"),
    )


def _same_step(histories: list[pl.DataFrame], kept: list[str]) -> pl.DataFrame:
    """The peak's step, where the text has one: it survives if the null's peak may be at the same."""
    steps = ["peak_step_low", "peak_step_high"]
    text, random = (side.select(*SIDE_KEYS, "verdict", *steps) for side in histories)
    both = text.join(random, on=SIDE_KEYS, nulls_equal=True, suffix="_null").filter(verdict=EXPAND_COMPRESS)
    meet = (pl.col("peak_step_low") <= pl.col("peak_step_high_null")) & (
        pl.col("peak_step_low_null") <= pl.col("peak_step_high")
    )
    there = (pl.col("verdict_null") == EXPAND_COMPRESS) & meet
    said = both.select(*SIDE_KEYS, _word(pl.lit(True), there, _known("verdict_null")).alias("_said"))
    pairs = _pair(histories, kept, "peak_step", EXPAND_COMPRESS).join(said, on=SIDE_KEYS, nulls_equal=True)
    none = [pl.lit(None, pl.Float64).alias(name) for name in ("difference", "difference_low", "difference_high")]
    return pairs.with_columns(pl.col("_said").alias("verdict"), *none).drop("_said")


def _known(name: str) -> pl.Expr:
    return pl.col(name).is_not_null() & ~pl.col(name).is_in(["too_few", "no_errors", "disputed"])


def _word(here: pl.Expr, there: pl.Expr, known: pl.Expr) -> pl.Expr:
    cases = pl.when(here & there).then(pl.lit("survives")).when(here).then(pl.lit("text_only"))
    said = cases.when(there).then(pl.lit("random_only")).otherwise(pl.lit("neither"))
    return pl.when(known.fill_null(False)).then(said).otherwise(pl.lit("unknown"))


def _sentence(row: dict[str, Any]) -> str:
    where = "the model" if row["layer"] is None else f"layer {row['layer']}"
    name = {"dome": "The dome", "dome_no_sink": "The dome without sink tokens", "phases": "Expansion and compression"}
    subject = f"{name.get(row['conclusion'], 'The step of the peak')} of {where}"
    said = {
        "survives": f"is there on {row['null']} as on {row['corpus']}: it does not take language",
        "text_only": f"is there on {row['corpus']} and not on {row['null']}",
        "random_only": f"is there on {row['null']} and not on {row['corpus']}",
        "neither": f"is there neither on {row['corpus']} nor on {row['null']}",
        "unknown": "cannot be compared",
    }[row["verdict"]]
    return f"{subject} {said} ({row['on_text']} against {row['on_null']})."
