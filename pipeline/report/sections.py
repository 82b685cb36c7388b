"""The sections of the page: of each chart its question, how to read it, its query, the findings that it shows."""

from collections.abc import Callable
from typing import Any, NamedTuple

from pipeline.report import history_charts, overview_charts
from pipeline.report.chart_parts import ChartContext

HISTORY_KEYS = ("model", "kind", "stage", "run")
"""What a history is, beside its text: `{text}` fixes the corpus, its content and the recipe."""
HISTORY_COLUMNS_SQL = ", ".join(HISTORY_KEYS)
BELIEVED_ROWS_SQL = f"""(FROM layers WHERE NOT coalesce(superseded, false) QUALIFY count(DISTINCT step) OVER
  (PARTITION BY {HISTORY_COLUMNS_SQL}, corpus, corpus_sha256, recipe, layer, weights_digest) <= 1)"""
"""The rows that charts draw: of labels with equal weights and different steps at most one is right."""
NEWEST_STEP_SQL = f"QUALIFY step IS NOT DISTINCT FROM max(step) OVER (PARTITION BY {HISTORY_COLUMNS_SQL})"
ANISOTROPY_MEANS_SQL = (
    "avg(anisotropy) AS anisotropy, avg(anisotropy_se) AS anisotropy_se, avg(anisotropy_no_sink) AS anisotropy_no_sink"
)
MAP_COLUMNS_SQL = "anisotropy, anisotropy_se, anisotropy_no_sink, id_twonn, id_twonn_se, loss"
DIMENSION_COLUMNS_SQL = "id_twonn, id_twonn_se, id_mle, id_mle_se, id_authors"
DIMENSION_MEANS_SQL = ", ".join(f"avg({name}) AS {name}" for name in DIMENSION_COLUMNS_SQL.split(", "))
GAPS_SQL = f"""SELECT step, layer, r.corpus AS random, t.anisotropy - r.anisotropy AS anisotropy_gap,
  sqrt(t.anisotropy_se ** 2 + r.anisotropy_se ** 2) AS anisotropy_gap_se, t.id_twonn - r.id_twonn AS id_twonn_gap,
  sqrt(t.id_twonn_se ** 2 + r.id_twonn_se ** 2) AS id_twonn_gap_se
FROM (FROM {BELIEVED_ROWS_SQL} WHERE {{history}} AND {{text}}) t
JOIN (FROM {BELIEVED_ROWS_SQL} WHERE {{history}} AND corpus LIKE 'random-%') r
USING (recipe, revision, step, layer, weights_digest, config_digest, tokenizer_digest) ORDER BY step, layer, random"""


class Section(NamedTuple):
    """One chart of the page, with all that stands about it."""

    name: str
    question: str
    how_to_read: str
    """How to read the chart; what is not colour alone."""
    table: str
    columns: tuple[str, ...]
    """Of the table behind the chart, in order; the query returns each of them."""
    query: str
    """SQL over the lake's views; `{history}` and `{text}` stand for the conditions of the controls' choices."""
    only: tuple[str, ...]
    """Of the table's rows, those in which none of these columns is false or null."""
    controls: tuple[str, ...]
    findings: tuple[str, ...]
    draw: Callable[[ChartContext], Any]

    def build_spec(self, shown: ChartContext) -> dict[str, Any]:
        """The Vega-Lite spec, without data; not validated, which would take most of the page's time."""
        chart = self.draw(shown).properties(description=f"{self.question} {self.how_to_read}")
        return {
            "params": [{"name": name, "value": shown.default_choice(name)} for name in self.controls]
        } | chart.to_dict(validate=False)


OVERVIEW_SECTIONS = (
    Section(
        "profile",
        "Is the middle of decoders anisotropic, and that of encoders not?",
        "Anisotropy of the output of each block, at the newest checkpoint of every model; the band is the 95 % "
        "interval. Decoders are solid lines with circles, encoders dashed with squares.",
        "layers",
        ("history", "step", "layer", "depth", "anisotropy", "anisotropy_se", "anisotropy_no_sink"),
        f"SELECT {HISTORY_COLUMNS_SQL}, step, layer, depth, anisotropy, anisotropy_se, anisotropy_no_sink\nFROM {BELIEVED_ROWS_SQL}\n"
        f"WHERE {{text}} AND state = 'block'\n{NEWEST_STEP_SQL} ORDER BY ALL",
        ("newest", "block"),
        ("text",),
        ("matched",),
        overview_charts.draw_profile,
    ),
    Section(
        "growth",
        "Does anisotropy grow in training?",
        "The mean over the blocks; the band is the 95 % interval, the thin faint line the same without sink tokens.",
        "steps",
        ("history", "step", "anisotropy", "anisotropy_se", "anisotropy_no_sink"),
        f"SELECT {HISTORY_COLUMNS_SQL}, step, revision, {ANISOTROPY_MEANS_SQL}\nFROM {BELIEVED_ROWS_SQL}\nWHERE {{text}} AND state = 'block' "
        "AND step IS NOT NULL GROUP BY ALL ORDER BY ALL",
        (),
        ("text",),
        (),
        overview_charts.draw_growth,
    ),
    Section(
        "multiples",
        "Does dimension first expand, then compress?",
        "Intrinsic dimension over training, each model on its own scale: one line per landmark block, from the first "
        "(dark) to the last (bright), each with its own dash.",
        "layers",
        ("history", "step", "layer", "depth", *DIMENSION_COLUMNS_SQL.split(", ")),
        f"SELECT {HISTORY_COLUMNS_SQL}, step, layer, depth, {DIMENSION_COLUMNS_SQL}\nFROM {BELIEVED_ROWS_SQL}\nWHERE {{text}} AND state = 'block' "
        "AND step IS NOT NULL ORDER BY ALL",
        ("landmark", "step"),
        ("text", "estimator"),
        (),
        overview_charts.draw_dimension_multiples,
    ),
)
HISTORY_SECTIONS = (
    Section(
        "map",
        "Where and when is the space anisotropic?",
        "Anisotropy, the share of variance along one direction, by layer (bottom: embedding, top: after the final "
        "norm) and checkpoint. A white dot marks the highest block of each checkpoint.",
        "layers",
        ("step", "layer", "state", *MAP_COLUMNS_SQL.split(", ")),
        f"SELECT step, layer, state, {MAP_COLUMNS_SQL}\nFROM {BELIEVED_ROWS_SQL}\nWHERE {{history}} AND {{text}} AND step IS NOT NULL "
        "ORDER BY step, layer",
        ("step",),
        ("history", "text"),
        ("dome", "sinks"),
        history_charts.draw_heat_map,
    ),
    Section(
        "profiles",
        "Does the profile settle into one shape?",
        "The same over depth, one line per checkpoint, dark for early steps; the last one is bold.",
        "layers",
        ("step", "layer", "depth", "anisotropy", "anisotropy_se"),
        f"SELECT step, layer, depth, anisotropy, anisotropy_se\nFROM {BELIEVED_ROWS_SQL}\nWHERE {{history}} AND {{text}} AND "
        "state = 'block' AND step IS NOT NULL ORDER BY step, layer",
        ("step", "block"),
        ("history", "text"),
        ("convergence",),
        history_charts.draw_profiles,
    ),
    Section(
        "dimension",
        "When does each layer's dimension turn?",
        "Intrinsic dimension by block. Landmark blocks are bold, named, and have their 95 % band; a triangle stands at "
        "each one's highest step, filled and over its 95 % interval where rise and fall are both proven, and nowhere "
        "if no verdict is sure. Hollow points are not to be believed.",
        "layers",
        ("step", "layer", "depth", *DIMENSION_COLUMNS_SQL.split(", "), "loss"),
        f"SELECT step, layer, depth, {DIMENSION_COLUMNS_SQL}, loss\nFROM {BELIEVED_ROWS_SQL}\nWHERE {{history}} AND {{text}} AND "
        "state = 'block' AND step IS NOT NULL ORDER BY step, layer",
        ("step", "block"),
        ("history", "text", "estimator"),
        ("phases", "estimators"),
        history_charts.draw_dimension,
    ),
    Section(
        "loss",
        "How does dimension move with the loss?",
        "Dimension, the mean over the blocks, above the model's own loss on the same tokens; one axis of steps, bands "
        "are 95 % intervals.",
        "steps",
        ("step", *DIMENSION_COLUMNS_SQL.split(", "), "loss", "loss_se"),
        f"SELECT step, revision, {DIMENSION_MEANS_SQL}, avg(loss) AS loss, avg(loss_se) AS loss_se\nFROM {BELIEVED_ROWS_SQL}\n"
        "WHERE {history} AND {text} AND state = 'block' AND step IS NOT NULL GROUP BY ALL ORDER BY step",
        (),
        ("history", "text", "estimator"),
        (),
        history_charts.draw_dimension_and_loss,
    ),
    Section(
        "random",
        "What of this is language, and what holds for random tokens too?",
        "Text minus random tokens at the same checkpoint. A dot marks a difference that is within its 95 % interval "
        "of nothing.",
        "gaps",
        ("step", "layer", "random", "anisotropy_gap", "anisotropy_gap_se", "id_twonn_gap", "id_twonn_gap_se"),
        GAPS_SQL,
        (),
        ("history", "text"),
        ("nulls",),
        history_charts.draw_random_gaps,
    ),
)
