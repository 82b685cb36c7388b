"""Sections of the page: per chart its question, caption, data table, SQL query, controls and findings."""

from collections.abc import Callable
from typing import Any, NamedTuple

from pipeline.report import history_charts, overview_charts
from pipeline.report.chart_parts import ChartContext

HISTORY_KEYS = ("model", "kind", "stage", "run")
"""Columns that identify a history; corpus and recipe are fixed by the control `text`."""
HISTORY_COLUMNS_SQL = ", ".join(HISTORY_KEYS)
BELIEVED_ROWS_SQL = f"""(FROM layers WHERE NOT coalesce(superseded, false) QUALIFY count(DISTINCT step) OVER
  (PARTITION BY {HISTORY_COLUMNS_SQL}, corpus, corpus_sha256, recipe, layer, weights_digest) <= 1)"""
"""Rows of current labels whose weights have no other step: of such labels at most one is right, so none is drawn."""
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


BLOCKS_SQL = "{text} AND state = 'block'"
TRAINED_BLOCKS_SQL = f"{BLOCKS_SQL} AND step IS NOT NULL"
HISTORY_BLOCKS_SQL = f"{{history}} AND {TRAINED_BLOCKS_SQL}"


def _query(columns: str, where: str, end: str) -> str:
    return f"SELECT {columns}\nFROM {BELIEVED_ROWS_SQL}\nWHERE {where} {end}"


class Section(NamedTuple):
    """One chart of the page with its texts, its data and its query."""

    name: str
    question: str
    how_to_read: str
    """Caption of the chart; also explains every distinction that is shown by colour."""
    table: str
    columns: tuple[str, ...]
    """Columns of the table behind the chart, in order; the query returns each of them."""
    query: str
    """SQL over the lake's views; `{history}` and `{text}` stand for the conditions selected by the controls."""
    only: tuple[str, ...]
    """Columns that must be neither false nor null in the rows of the table that belong to the chart."""
    controls: tuple[str, ...]
    findings: tuple[str, ...]
    draw: Callable[[ChartContext], Any]

    def build_spec(self, shown: ChartContext) -> dict[str, Any]:
        """Build the Vega-Lite spec, without data; not validated, which would take most of the page's time."""
        chart = self.draw(shown).properties(description=f"{self.question} {self.how_to_read}")
        params = [{"name": name, "value": shown.default_choice(name)} for name in self.controls]
        return {"params": params} | chart.to_dict(validate=False)


OVERVIEW_SECTIONS = (
    Section(
        "profile",
        "Are the middle layers of decoders anisotropic, and those of encoders not?",
        "Anisotropy of the output of each block, at the newest checkpoint of every model; the band is the 95 % "
        "interval. Decoders are solid lines with circles, encoders dashed with squares.",
        "layers",
        ("history", "step", "layer", "depth", "anisotropy", "anisotropy_se", "anisotropy_no_sink"),
        _query(
            f"{HISTORY_COLUMNS_SQL}, step, layer, depth, anisotropy, anisotropy_se, anisotropy_no_sink",
            BLOCKS_SQL,
            f"\n{NEWEST_STEP_SQL} ORDER BY ALL",
        ),
        ("newest", "block"),
        ("text",),
        ("matched",),
        overview_charts.draw_profile,
    ),
    Section(
        "growth",
        "Does anisotropy grow in training?",
        "The mean over the blocks; the band is the 95 % interval, the thin faint line is the mean without sink tokens.",
        "steps",
        ("history", "step", "anisotropy", "anisotropy_se", "anisotropy_no_sink"),
        _query(
            f"{HISTORY_COLUMNS_SQL}, step, revision, {ANISOTROPY_MEANS_SQL}",
            TRAINED_BLOCKS_SQL,
            "GROUP BY ALL ORDER BY ALL",
        ),
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
        _query(
            f"{HISTORY_COLUMNS_SQL}, step, layer, depth, {DIMENSION_COLUMNS_SQL}",
            TRAINED_BLOCKS_SQL,
            "ORDER BY ALL",
        ),
        ("landmark", "step"),
        ("text", "estimator"),
        (),
        overview_charts.draw_dimension_multiples,
    ),
)
HISTORY_SECTIONS = (
    Section(
        "map",
        "In which layers, and from which step on, are the hidden states anisotropic?",
        "Anisotropy, the share of variance along one direction, by layer (bottom: embedding, top: after the final "
        "norm) and checkpoint. A white dot marks the highest block of each checkpoint.",
        "layers",
        ("step", "layer", "state", *MAP_COLUMNS_SQL.split(", ")),
        _query(
            f"step, layer, state, {MAP_COLUMNS_SQL}",
            "{history} AND {text} AND step IS NOT NULL",
            "ORDER BY step, layer",
        ),
        ("step",),
        ("history", "text"),
        ("dome", "sinks"),
        history_charts.draw_heat_map,
    ),
    Section(
        "profiles",
        "Does the profile settle into one shape?",
        "Anisotropy over depth, one line per checkpoint, dark for early steps; the last one is bold.",
        "layers",
        ("step", "layer", "depth", "anisotropy", "anisotropy_se"),
        _query("step, layer, depth, anisotropy, anisotropy_se", HISTORY_BLOCKS_SQL, "ORDER BY step, layer"),
        ("step", "block"),
        ("history", "text"),
        ("convergence",),
        history_charts.draw_profiles,
    ),
    Section(
        "dimension",
        "At which step does each layer's dimension peak?",
        "Intrinsic dimension by block. Landmark blocks are bold, labelled, and have their 95 % band. A triangle marks "
        "the step of the peak: filled, with its 95 % interval, if rise and fall are both significant, else hollow; "
        "there is none without a significant change. Hollow points are unreliable.",
        "layers",
        ("step", "layer", "depth", *DIMENSION_COLUMNS_SQL.split(", "), "loss"),
        _query(f"step, layer, depth, {DIMENSION_COLUMNS_SQL}, loss", HISTORY_BLOCKS_SQL, "ORDER BY step, layer"),
        ("step", "block"),
        ("history", "text", "estimator"),
        ("phases", "estimators"),
        history_charts.draw_dimension,
    ),
    Section(
        "loss",
        "How does dimension change with the loss?",
        "Dimension (mean over the blocks) above the model's own loss on the same tokens, on a shared axis of steps; "
        "bands are 95 % intervals.",
        "steps",
        ("step", *DIMENSION_COLUMNS_SQL.split(", "), "loss", "loss_se"),
        _query(
            f"step, revision, {DIMENSION_MEANS_SQL}, avg(loss) AS loss, avg(loss_se) AS loss_se",
            HISTORY_BLOCKS_SQL,
            "GROUP BY ALL ORDER BY step",
        ),
        (),
        ("history", "text", "estimator"),
        (),
        history_charts.draw_dimension_and_loss,
    ),
    Section(
        "random",
        "What depends on language, and what also holds on random tokens?",
        "Text minus random tokens at the same checkpoint. A dot marks a difference within error: its 95 % interval "
        "includes 0.",
        "gaps",
        ("step", "layer", "random", "anisotropy_gap", "anisotropy_gap_se", "id_twonn_gap", "id_twonn_gap_se"),
        GAPS_SQL,
        (),
        ("history", "text"),
        ("nulls",),
        history_charts.draw_random_gaps,
    ),
)
