"""Writes the report: one offline HTML file, or an index and one page per history if that file is too large.

Models are read a few at a time for the index, and one at a time for the pages, so memory does not grow with the lake.
"""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pipeline import output_paths
from pipeline.lake.reader import LakeReader
from pipeline.progress import Progress, track
from pipeline.report import page
from pipeline.report import tables as printed
from pipeline.report.chart_data import ChartRows, build_chart_tables
from pipeline.report.chart_parts import ChartContext
from pipeline.report.page import PageContent, PageOptions, count_facts, render_page, select_conditions
from pipeline.report.sections import HISTORY_SECTIONS, OVERVIEW_SECTIONS, ChartSpecs
from pipeline.report.survey import Survey, survey_models
from pipeline.report.verdicts import collect_verdicts

MAX_WHOLE_ROWS = 100_000
"""Largest number of rows of several models for which one file is tried; more rows rarely fit into MAX_PAGE_BYTES."""
MAX_LAYER_ROWS = 16_000
"""Largest number of rows of the table `layers` in one file; a larger table is thinned to every n-th step."""
MAX_INDEX_LAYER_ROWS = 8_000
MAX_MODELS = 30
"""Largest number of models for which pages are written; for more models, only the index is.

A page takes about a second and 1 MB, mostly for the chart library.
"""


class ReportFiles(list[Path]):
    """Paths of the pages, the start page first."""

    note = ""
    """Line with the command that writes the pages that are missing; empty if all pages were written."""


class _Shared(NamedTuple):
    """Content that all pages of a split report share."""

    reader: LakeReader
    rows: ChartRows
    survey: Survey
    printed_tables: tuple[printed.ReportTable, ...]
    specs: ChartSpecs


def write_report(reader: LakeReader, path: str | Path, models: str = "*") -> ReportFiles:
    """Write the report of all models whose name matches the glob `models`; return the paths of its pages.

    The report is one file if it has one history, or at most MAX_PAGE_BYTES. Otherwise it is split into an index and,
    beside it, a folder of the same name with one page per history; for more than MAX_MODELS models, only the index is
    written.

    Raises:
        UsageError: `path` is not a writable .html file, or no model in the lake matches.
    """
    path = output_paths.require_writable_file("report", path, [".html"])
    rows = ChartRows(reader, models)
    if whole := _render_whole(reader, rows):
        path.write_text(whole)
        return ReportFiles([path])
    if len(rows.models) > MAX_MODELS:
        return _write_index_alone(reader, rows, path)
    return _write_pages(reader, rows, path)


def _render_whole(reader: LakeReader, rows: ChartRows) -> str | None:
    """Render the report as one page; return None if it is too large and has several histories."""
    if len(rows.models) > 1 and rows.counts["rows"].sum() > MAX_WHOLE_ROWS:
        return None
    with Progress("Writing the report", 4, "steps") as progress:
        frame = rows.load(rows.models)
        progress.complete_step(next_step="chart tables")
        tables = build_chart_tables(frame)
        shown = ChartContext.from_tables(tables)
        progress.complete_step(next_step="findings")
        facts, where = count_facts(frame), select_conditions(frame)
        verdicts, printed_tables = collect_verdicts(frame), _print_tables(reader, rows.models)
        progress.complete_step(next_step="charts")
        content = PageContent(reader.uri, facts, where, tables, verdicts, printed_tables, ChartSpecs(shown))
        whole = render_page(content, PageOptions((*OVERVIEW_SECTIONS, *HISTORY_SECTIONS), MAX_LAYER_ROWS))
        progress.complete_step()
    return whole if len(shown.histories) == 1 or len(whole.encode()) <= page.MAX_PAGE_BYTES else None


def _write_pages(reader: LakeReader, rows: ChartRows, path: Path) -> ReportFiles:
    """Write the index and one page per history."""
    shared = _gather(reader, rows, with_overview=True)
    folder = output_paths.require_writable_folder("pages of the report in", path.with_suffix(""))
    folder.mkdir(exist_ok=True)
    histories = shared.survey.shown.histories
    pages = {history: folder / f"{number:02d}-{_slug(history)}.html" for number, history in enumerate(histories, 1)}
    for history, content in track(_history_contents(shared), "Writing pages", len(pages), "pages"):
        options = PageOptions(HISTORY_SECTIONS, MAX_LAYER_ROWS, up=f"../{path.name}")
        pages[history].write_text(render_page(content, options))
    links = {history: f"{folder.name}/{target.name}" for history, target in pages.items()}
    options = PageOptions(OVERVIEW_SECTIONS, MAX_INDEX_LAYER_ROWS, links)
    path.write_text(render_page(_index_content(shared), options))
    return ReportFiles([path, *pages.values()])


def _write_index_alone(reader: LakeReader, rows: ChartRows, path: Path) -> ReportFiles:
    """Write an index without charts. It states the command that writes pages, and so does `note` of the result."""
    shared = _gather(reader, rows, with_overview=False)
    command = f"shapelake report --lake {shlex.quote(reader.uri)} --models GLOB -o PAGES.html"
    options = PageOptions((), MAX_INDEX_LAYER_ROWS, without_pages=command)
    path.write_text(render_page(_index_content(shared), options))
    files = ReportFiles([path])
    files.note = f"Index of {len(rows.models)} models; for pages of up to {MAX_MODELS} of them run {command}"
    return files


def _gather(reader: LakeReader, rows: ChartRows, with_overview: bool) -> _Shared:
    survey = survey_models(rows, with_overview)
    return _Shared(reader, rows, survey, _print_tables(reader, rows.models), ChartSpecs(survey.shown))


def _history_contents(shared: _Shared) -> Iterator[tuple[str, PageContent]]:
    """Yield the name of each history and the content of its page; one model is in memory at a time."""
    for model in shared.rows.models:
        frame = shared.rows.load([model])
        tables = build_chart_tables(frame)
        printed_tables = tuple(table.filter_rows(model=model) for table in shared.printed_tables)
        for history in frame["history"].unique().sort():
            part, verdicts = frame.filter(history=history), shared.survey.verdicts.for_history(history)
            facts, where = count_facts(part), select_conditions(part)
            mine = tables.for_history(history)
            yield history, PageContent(shared.reader.uri, facts, where, mine, verdicts, printed_tables, shared.specs)


def _index_content(shared: _Shared) -> PageContent:
    survey = shared.survey
    parts = survey.facts, survey.where, survey.overview, survey.verdicts
    tables = (*shared.printed_tables, survey.newest)
    return PageContent(shared.reader.uri, *parts, tables, shared.specs)


def _print_tables(reader: LakeReader, models: list[str]) -> tuple[printed.ReportTable, ...]:
    of_models = printed.coverage_table(reader, models), printed.failure_table(reader, models)
    return (*of_models, printed.method_table(reader))


def _slug(history: str) -> str:
    return re.sub(r"[^\w.-]", "-", history.replace("/", "--"))
