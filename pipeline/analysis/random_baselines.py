"""Text against random tokens: conclusions that also hold without language."""

from typing import Any

import polars as pl

from pipeline.analysis.dome import compute_newest_domes
from pipeline.analysis.frames import LakeOrFrame, add_because_column, load_layer_rows
from pipeline.analysis.phases import EXPAND_COMPRESS, compute_phases, peak_intervals_overlap

RANDOM_CORPUS_PREFIX = "random-"
CHECKPOINT_KEYS = ("model", "kind", "stage", "run", "recipe", "weights_digest", "config_digest", "tokenizer_digest")
"""Columns that identify a checkpoint measured by one recipe."""
PAIR_KEYS = ("model", "kind", "stage", "run", "corpus", "null", "recipe")
SIDE_KEYS = ("model", "kind", "stage", "run", "recipe", "layer")
VERDICTS = ("survives", "text_only", "random_only", "neither", "unknown")


def compute_null_survival(lake: LakeOrFrame) -> pl.DataFrame:
    """Compare conclusions on text with those on random tokens, over the checkpoints that were measured on both.

    Columns: `model`, `kind`, `stage`, `run`, `corpus` (the text), `null` (random-uniform, random-unigram), `recipe`,
    `conclusion` (dome; dome_no_sink; phases; peak_step = both expand and compress, and the intervals of their peaks
    overlap), `layer` (null = the model), `verdict` (survives, text_only, random_only, neither; unknown if one side has
    no verdict), `on_text`, `on_null`, `difference` of the heights (text - random) with the sum of both intervals, which
    covers at least 90 %, `rows`, `because`. A conclusion that survives is no evidence about language.
    """
    frame = load_layer_rows(lake)
    corpora = frame["corpus"].unique().sort().to_list()
    nulls = [name for name in corpora if name.startswith(RANDOM_CORPUS_PREFIX)]
    pairs = [_compare_corpora(frame, text, null) for text in corpora if text not in nulls for null in nulls]
    compared = pl.concat([_compare_corpora(frame.clear(), "", ""), *pairs])
    return sort_null_survival(compared)


def sort_null_survival(found: pl.DataFrame) -> pl.DataFrame:
    """Sort the rows of `compute_null_survival` by conclusion, then by model."""
    return found.sort("conclusion", *PAIR_KEYS, "layer", nulls_last=True)


def _compare_corpora(frame: pl.DataFrame, text: str, null: str) -> pl.DataFrame:
    sides = [frame.filter(corpus=text), frame.filter(corpus=null)]
    on = [*CHECKPOINT_KEYS, "layer"]
    sides = [a.join(b, on=on, how="semi", nulls_equal=True) for a, b in (sides, sides[::-1])]
    domes = [compute_newest_domes(side).with_columns(layer=pl.lit(None, pl.Int16)) for side in sides]
    kept = ["verdict", "height", "height_low", "height_high", "rows"]
    names = {f"no_sink_{name}": name for name in kept[:-1]}
    no_sink_domes = [side.drop(kept[:-1]).rename(names) for side in domes]
    histories = [compute_phases(side) for side in sides]
    joined = [
        _pair(domes, kept, "dome", "dome"),
        _pair(no_sink_domes, kept, "dome_no_sink", "dome"),
        _pair(histories, kept, "phases", EXPAND_COMPRESS),
        _same_step(histories, kept),
    ]
    table = pl.concat(joined).with_columns(corpus=pl.lit(text), null=pl.lit(null))
    columns = [*PAIR_KEYS, "conclusion", "layer", "verdict", "on_text", "on_null"]
    columns += ["difference", "difference_low", "difference_high", "rows"]
    return add_because_column(table.select(columns), _sentence)


def _pair(sides: list[pl.DataFrame], kept: list[str], conclusion: str, holds: str) -> pl.DataFrame:
    """Pair the rows of both sides; the conclusion is drawn where the verdict is `holds`."""
    text, random = (side.select(*SIDE_KEYS, *kept) for side in sides)
    both = text.join(random, on=SIDE_KEYS, nulls_equal=True, suffix="_null")
    on_text, on_null = (pl.col(name) == holds for name in ("verdict", "verdict_null"))
    return both.select(
        *SIDE_KEYS,
        pl.lit(conclusion).alias("conclusion"),
        _verdict(on_text, on_null, _known("verdict") & _known("verdict_null")).alias("verdict"),
        pl.col("verdict").alias("on_text"),
        pl.col("verdict_null").alias("on_null"),
        (pl.col("height") - pl.col("height_null")).alias("difference"),
        (pl.col("height_low") - pl.col("height_high_null")).alias("difference_low"),
        (pl.col("height_high") - pl.col("height_low_null")).alias("difference_high"),
        (pl.col("rows") + pl.col("rows_null")).alias("rows"),
    )


def _same_step(histories: list[pl.DataFrame], kept: list[str]) -> pl.DataFrame:
    """Compare the steps of the peaks, where the text has one; the conclusion survives if their intervals overlap."""
    steps = ["peak_step_low", "peak_step_high"]
    text, random = (side.select(*SIDE_KEYS, "verdict", *steps) for side in histories)
    both = text.join(random, on=SIDE_KEYS, nulls_equal=True, suffix="_null").filter(verdict=EXPAND_COMPRESS)
    on_null = (pl.col("verdict_null") == EXPAND_COMPRESS) & peak_intervals_overlap("_null")
    verdicts = both.select(*SIDE_KEYS, _verdict(pl.lit(True), on_null, _known("verdict_null")).alias("_verdict"))
    pairs = _pair(histories, kept, "peak_step", EXPAND_COMPRESS).join(verdicts, on=SIDE_KEYS, nulls_equal=True)
    none = [pl.lit(None, pl.Float64).alias(name) for name in ("difference", "difference_low", "difference_high")]
    return pairs.with_columns(pl.col("_verdict").alias("verdict"), *none).drop("_verdict")


def _known(name: str) -> pl.Expr:
    return pl.col(name).is_not_null() & ~pl.col(name).is_in(["too_few", "no_errors", "disputed"])


def _verdict(on_text: pl.Expr, on_null: pl.Expr, known: pl.Expr) -> pl.Expr:
    cases = pl.when(on_text & on_null).then(pl.lit("survives")).when(on_text).then(pl.lit("text_only"))
    cases = cases.when(on_null).then(pl.lit("random_only")).otherwise(pl.lit("neither"))
    return pl.when(known.fill_null(False)).then(cases).otherwise(pl.lit("unknown"))


def _sentence(row: dict[str, Any]) -> str:
    subject = {
        "dome": "The dome of {}",
        "dome_no_sink": "The dome of {} without sink tokens",
        "phases": "Expansion and compression of {}",
        "peak_step": "A peak of {} at the same step",
    }[row["conclusion"]].format("the model" if row["layer"] is None else f"layer {row['layer']}")
    text = {
        "survives": f"found on both {row['corpus']} and {row['null']}, so it does not require language",
        "text_only": f"found on {row['corpus']} and not on {row['null']}",
        "random_only": f"found on {row['null']} and not on {row['corpus']}",
        "neither": f"found on neither {row['corpus']} nor {row['null']}",
        "unknown": "cannot be compared",
    }[row["verdict"]]
    return f"{subject}: {text} ({row['on_text']} against {row['on_null']})."
