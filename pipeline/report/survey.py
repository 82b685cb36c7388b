"""Survey of all models, a few at a time: verdicts and chart scales for all pages, and the numbers of the index."""

from typing import NamedTuple

import polars as pl

from pipeline.analysis import FINDINGS, combine_batches, compute_batch
from pipeline.analysis.model_batches import copy_texts
from pipeline.report.chart_data import ChartRows, ChartTables, build_chart_tables
from pipeline.report.chart_parts import ChartContext
from pipeline.report.page import count_facts, select_conditions
from pipeline.report.sections import HISTORY_KEYS, HISTORY_KEYS_SQL
from pipeline.report.tables import ReportTable, make_report_table
from pipeline.report.verdicts import Verdicts, name_verdicts, select_names

NEWEST_SQL = f"""SELECT {HISTORY_KEYS_SQL}, corpus, recipe, any_value(step) AS newest_step,
  max(anisotropy) AS anisotropy, max(anisotropy_no_sink) AS anisotropy_no_sink, avg(id_twonn) AS id_twonn,
  avg(loss) AS loss
FROM (FROM layers WHERE NOT coalesce(superseded, false) AND state = 'block' QUALIFY step IS NOT DISTINCT FROM
  max(step) OVER (PARTITION BY {HISTORY_KEYS_SQL}, corpus, corpus_sha256, recipe)) GROUP BY ALL ORDER BY ALL"""


class Survey(NamedTuple):
    """Content of the report that depends on all models."""

    shown: ChartContext
    facts: dict[str, int]
    where: dict[str, dict[str, str]]
    """SQL conditions of all histories and texts, as in `PageContent.where`: by control, then by name."""
    overview: ChartTables
    """Tables of the charts that compare all models; empty if there are too many models for these charts."""
    verdicts: Verdicts
    newest: ReportTable


class _Batch(NamedTuple):
    cells: pl.DataFrame
    """One row per (label, text, cell), with the columns that identify them."""
    names: pl.DataFrame
    layers: pl.DataFrame
    gaps: pl.DataFrame
    overview: ChartTables
    newest: pl.DataFrame
    found: dict[str, pl.DataFrame]


def survey_models(rows: ChartRows, with_overview: bool) -> Survey:
    """Read all models once; return the content that the pages share. `overview` is empty unless `with_overview`."""
    batches = [_survey_batch(frame, with_overview) for frame in rows.batches()]
    fields = ("cells", "names", "layers", "gaps", "newest")
    cells, names, layers, gaps, newest = (pl.concat([getattr(batch, name) for batch in batches]) for name in fields)
    found = combine_batches(batch.found for batch in batches)
    return Survey(
        ChartContext.from_columns(layers, gaps),
        count_facts(cells) | {"rows": int(rows.counts["rows"].sum())},
        select_conditions(cells),
        ChartTables.concat([batch.overview for batch in batches]),
        name_verdicts(found, names),
        _newest_table(newest),
    )


def _survey_batch(frame: pl.DataFrame, with_overview: bool) -> _Batch:
    tables = build_chart_tables(frame, with_slow=False)
    overview = tables.for_overview()
    return _Batch(
        copy_texts(frame.select("history", *HISTORY_KEYS, "revision", "corpus", "recipe", "text", "cell_id").unique()),
        copy_texts(select_names(frame)),
        copy_texts(tables.layers.select("history", "text", "kind", "step").unique()),
        tables.gaps.select("anisotropy_gap", "id_twonn_gap"),
        ChartTables(*(copy_texts(table) if with_overview else table.clear() for table in overview)),
        copy_texts(_newest_numbers(tables.layers)),
        compute_batch(list(FINDINGS), frame),
    )


def _newest_numbers(layers: pl.DataFrame) -> pl.DataFrame:
    """Summarize the newest checkpoint of each history on each text in one row.

    The row has its step, the highest anisotropy of a block, and the mean dimension (TwoNN) and loss over the blocks.
    """
    blocks = layers.filter(pl.col("newest") & pl.col("block")).group_by("history", "text")
    return blocks.agg(
        pl.col("step").first().alias("newest_step"),
        pl.col("anisotropy", "anisotropy_no_sink").max(),
        pl.col("id_twonn", "loss").mean(),
    )


def _newest_table(newest: pl.DataFrame) -> ReportTable:
    caption = "Newest checkpoint: highest anisotropy of a block, mean dimension (TwoNN) over the blocks, loss."
    command = f'shapelake query "{NEWEST_SQL}" --lake {{lake}}'
    return make_report_table("newest", caption, command, newest.sort("history", "text"))
