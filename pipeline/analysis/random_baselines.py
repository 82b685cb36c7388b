"""Comparison of text with random tokens: which effects also appear without language.

An effect is judged by the difference of its sizes on text and on random tokens.
"""

from typing import Any

import polars as pl

from pipeline.analysis.claims import UNDECIDED, decide, describe_claim
from pipeline.analysis.depth import WORDS as DEPTH_WORDS
from pipeline.analysis.depth import compute_depth
from pipeline.analysis.dome import DOME, compute_newest_domes
from pipeline.analysis.frames import LakeOrFrame, add_because_column, format_interval, load_layer_rows
from pipeline.analysis.group_errors import subtract_intervals
from pipeline.analysis.phases import WORDS as PHASE_WORDS
from pipeline.analysis.phases import compute_phases

RANDOM_CORPUS_PREFIX = "random-"
CHECKPOINT_KEYS = ("model", "kind", "stage", "run", "recipe", "weights_digest", "config_digest", "tokenizer_digest")
"""Columns that identify a checkpoint measured by one recipe."""
PAIR_KEYS = ("model", "kind", "stage", "run", "corpus", "null", "recipe")
SIDE_KEYS = ("model", "kind", "stage", "run", "recipe", "layer")
SURVIVES, DIFFERS, ABSENT, UNKNOWN = "survives", "differs", "absent", "unknown"
SURVIVING_SHARE = 0.5
"""An effect survives if random tokens show more than this share of the effect on text."""
SAME_STEP_DOUBLINGS = 1.0
"""Largest difference of two peak steps that count as the same, in doublings of the step: a factor 2."""
ENDS = ("", "_low", "_high")
CLAIM = "the effect also appears on random tokens"


def compute_null_survival(lake: LakeOrFrame) -> pl.DataFrame:
    """Compare effects on text with those on random tokens, over the checkpoints that were measured on both.

    An effect that survives is no evidence about language. Errors are unpaired, since contexts of text and of random
    tokens do not correspond.

    Columns, one row per history, random corpus, conclusion and layer:

    - `model`, `kind`, `stage`, `run`, `recipe`
    - `corpus`, `null`: names of the text and of the random tokens (`random-uniform` or `random-unigram`)
    - `conclusion`, the effect:
        - `dome`, `dome_no_sink`: height of the dome of anisotropy, of all tokens and without sink tokens.
        - `phases`: height of the peak of dimension over training.
        - `depth`: height of the peak of dimension over depth.
        - `peak_step`: step of the peak over training, for histories that have one on both sides.
    - `layer`: layer of `phases` and `peak_step`; null for the whole model
    - `verdict`:
        - `survives`: random tokens show more than half of the effect on text (95 %); for `peak_step`, the steps are
          within a factor 2 (95 %).
        - `differs`: the 95 % interval of the difference excludes 0.
        - `undecided`: the difference is within error.
        - `absent`: neither side shows the effect.
        - `unknown`: the effect of one side has no interval.
    - `claim` (the effect also appears on random tokens): `supports` for survives; `contradicts` if the text shows the
      effect and random tokens show less than half of it (95 %), or if the steps differ by over a factor 2; else
      `undecided`
    - `shown`: true if the text shows the effect
    - `on_text`, `on_null`: verdicts of the finding on text and on random tokens
    - `effect`, `effect_null`: heights on text and on random tokens; for `peak_step`, log2 of the step plus one
    - `difference`, `difference_low`, `difference_high`: `effect` minus `effect_null`, with its 95 % interval
    - `left`, `left_low`, `left_high`: `effect_null` minus half of `effect`, with its 95 % interval; null for
      `peak_step`
    - `rows`: number of points of the two curves
    - `because`: the result in one or two sentences
    """
    frame = load_layer_rows(lake)
    corpora = frame["corpus"].unique().sort().to_list()
    nulls = [name for name in corpora if name.startswith(RANDOM_CORPUS_PREFIX)]
    pairs = [_compare_corpora(frame, text, null) for text in corpora if text not in nulls for null in nulls]
    return sort_null_survival(pl.concat(pairs or [_compare_corpora(frame.clear(), "", "")]))


def sort_null_survival(found: pl.DataFrame) -> pl.DataFrame:
    """Sort the rows of `compute_null_survival` by conclusion, then by model."""
    return found.sort("conclusion", *PAIR_KEYS, "layer", nulls_last=True)


def _compare_corpora(frame: pl.DataFrame, text: str, null: str) -> pl.DataFrame:
    sides = [frame.filter(corpus=text), frame.filter(corpus=null)]
    on = [*CHECKPOINT_KEYS, "layer"]
    sides = [a.join(b, on=on, how="semi", nulls_equal=True) for a, b in (sides, sides[::-1])]
    model = pl.lit(None, pl.Int16)
    domes = [compute_newest_domes(side).with_columns(layer=model) for side in sides]
    kept = ["verdict", "height", "height_low", "height_high", "rows"]
    names = {f"no_sink_{name}": name for name in kept[:-1]}
    no_sink_domes = [side.drop(kept[:-1]).rename(names) for side in domes]
    histories = [compute_phases(side) for side in sides]
    depths = [compute_depth(side).with_columns(layer=model) for side in sides]
    joined = [
        _compare_effects(domes, "dome", [DOME]),
        _compare_effects(no_sink_domes, "dome_no_sink", [DOME]),
        _compare_effects(histories, "phases", sorted(PHASE_WORDS.peaked)),
        _compare_effects(depths, "depth", sorted(DEPTH_WORDS.peaked)),
        _compare_steps(histories),
    ]
    table = pl.concat(joined).with_columns(corpus=pl.lit(text), null=pl.lit(null))
    columns = [*PAIR_KEYS, "conclusion", "layer", "verdict", "claim", "shown", "on_text", "on_null"]
    columns += ["effect", "effect_null"]
    columns += [f"{name}{end}" for name in ("difference", "left") for end in ENDS] + ["rows"]
    return add_because_column(table.select(columns), _sentence)


def _join_sides(sides: list[pl.DataFrame], effect: dict[str, pl.Expr]) -> pl.DataFrame:
    """Join the rows on text and on random tokens, with the verdict and the effect of each, and the sum of their `rows`.

    Args:
        effect: expressions of the effect and of the limits of its interval.
    """
    text, random = (side.select(*SIDE_KEYS, "verdict", "rows", **effect) for side in sides)
    both = text.join(random, on=SIDE_KEYS, nulls_equal=True, suffix="_null")
    both = both.rename({f"effect{end}_null": f"effect_null{end}" for end in ENDS[1:]})
    rows = pl.col("rows") + pl.col("rows_null")
    return both.with_columns(rows=rows).rename({"verdict": "on_text", "verdict_null": "on_null"})


def _compare_effects(sides: list[pl.DataFrame], conclusion: str, shown_by: list[str]) -> pl.DataFrame:
    """Compare the heights of an effect on text and on random tokens.

    A side shows the effect if its verdict is one of `shown_by`.
    """
    both = _join_sides(sides, {f"effect{end}": pl.col(f"height{end}") for end in ENDS})
    half = {f"_half{end}": SURVIVING_SHARE * pl.col(f"effect{end}") for end in ENDS}
    both = both.with_columns(*subtract_intervals("effect", "effect_null", "difference"), **half)
    both = both.with_columns(*subtract_intervals("effect_null", "_half", "_left"))
    shown, shown_on_null = pl.col("on_text").is_in(shown_by), pl.col("on_null").is_in(shown_by)
    survives = shown & (pl.col("_left_low") > 0) & (pl.col("effect_null_low") > 0)
    both = both.with_columns(pl.col(f"_left{end}").alias(f"left{end}") for end in ENDS)
    lost = shown & (pl.col("left_high") < 0)
    return _decide(both.with_columns(shown=shown), conclusion, shown | shown_on_null, survives, lost)


def _compare_steps(histories: list[pl.DataFrame]) -> pl.DataFrame:
    """Compare the steps of the peaks on text and on random tokens, in doublings, where both have a peak."""
    both = _join_sides(histories, {f"effect{end}": (pl.col(f"peak_step{end}") + 1).log(2) for end in ENDS})
    peaked = sorted(PHASE_WORDS.peaked)
    both = both.filter(pl.col("on_text").is_in(peaked) & pl.col("on_null").is_in(peaked))
    both = both.with_columns(*subtract_intervals("effect", "effect_null", "difference"))
    both = both.with_columns(pl.lit(None, pl.Float64).alias(f"left{end}") for end in ENDS)
    low, high = pl.col("difference_low"), pl.col("difference_high")
    same = (low > -SAME_STEP_DOUBLINGS) & (high < SAME_STEP_DOUBLINGS)
    other = (low > SAME_STEP_DOUBLINGS) | (high < -SAME_STEP_DOUBLINGS)
    return _decide(both.with_columns(shown=pl.lit(True)), "peak_step", pl.lit(True), same, other)


def _decide(both: pl.DataFrame, conclusion: str, shown: pl.Expr, survives: pl.Expr, lost: pl.Expr) -> pl.DataFrame:
    low, high = pl.col("difference_low"), pl.col("difference_high")
    cases = pl.when(low.is_null()).then(pl.lit(UNKNOWN)).when(survives).then(pl.lit(SURVIVES))
    cases = cases.when(~shown).then(pl.lit(ABSENT)).when((low > 0) | (high < 0)).then(pl.lit(DIFFERS))
    verdict = cases.otherwise(pl.lit(UNDECIDED))
    kept = [
        "verdict",
        "claim",
        "shown",
        "on_text",
        "on_null",
        "effect",
        "effect_null",
        "difference",
        "difference_low",
        "difference_high",
        *(f"left{end}" for end in ENDS),
    ]
    both = both.with_columns(verdict=verdict, claim=decide(survives, lost), conclusion=pl.lit(conclusion))
    return both.select(*SIDE_KEYS, "conclusion", *kept, "rows")


def _sentence(row: dict[str, Any]) -> str:
    subject = {
        "dome": "The dome of {}",
        "dome_no_sink": "The dome of {} without sink tokens",
        "phases": "Expansion and compression of {}",
        "depth": "The peak of dimension over depth of {}",
        "peak_step": "The step of the peak of {}",
    }[row["conclusion"]].format("the model" if row["layer"] is None else f"layer {row['layer']}")
    text = {
        SURVIVES: "appears on both {corpus} and {null}, so it does not require language",
        DIFFERS: "differs significantly between {corpus} and {null}",
        UNDECIDED: "may or may not differ between {corpus} and {null}",
        ABSENT: "is found neither on {corpus} nor on {null}",
        UNKNOWN: "cannot be compared, for lack of errors or points",
    }[row["verdict"]].format(**row)
    if row["conclusion"] == "peak_step" and row["verdict"] in (SURVIVES, UNDECIDED):
        same = "is the same within a factor 2" if row["verdict"] == SURVIVES else "may or may not be the same"
        text = f"{same} on {row['corpus']} and {row['null']}"
    unit = " doublings" if row["conclusion"] == "peak_step" else ""
    form = ".0%" if row["conclusion"] in ("phases", "depth") else ".3f"
    size = (
        f"difference {format_interval(row, 'difference', form)}{unit}" if row["difference"] is not None else "no sizes"
    )
    answer = describe_claim(row["claim"], CLAIM)
    return f"{subject} {text} ({row['on_text']} against {row['on_null']}; {size}). {answer}"
