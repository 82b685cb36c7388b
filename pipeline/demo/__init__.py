"""Demo: train two small models, sweep both histories, and print how their geometry changed."""

import os
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.lake import Lake, LakeReader, open_lake
from pipeline.render.tables import format_value, print_table
from pipeline.spec import Corpus, Local, Resources, Sweep, built_in_recipe
from pipeline.sweep.plan import make_plan
from pipeline.sweep.run import run
from pipeline.sweep.run_report import RunReport
from pipeline.terminal import print_line

HISTORY_NAMES = ("demo-decoder", "demo-encoder")
TABLE_TITLES = {"anisotropy": "anisotropy", "id_twonn": "intrinsic dimension (TwoNN)"}
DIGITS = {"anisotropy": 3, "id_twonn": 1}


def demo_sweep(folder: Path) -> Sweep:
    """Return the sweep of both histories, on held-out text and on random tokens."""
    cpus = os.cpu_count() or 1
    return Sweep(
        name="demo",
        checkpoints=tuple(Local(local=str(folder / name)) for name in HISTORY_NAMES),
        corpora=(Corpus(kind="text", path=str(folder / "prose.txt")), Corpus(kind="random-uniform")),
        recipe=built_in_recipe("quick@1"),
        resources=Resources(cpus=cpus, slots=min(cpus, 4)),
    )


def run_demo(folder: Path) -> int:
    """Train missing histories, measure missing cells, print tables and a report; return the exit code."""
    from pipeline.demo.train import train_missing
    from pipeline.report import write_report

    print_line("1/3 training a small decoder and a small encoder on Python's own documentation", err=True)
    train_missing(folder, Console(stderr=True))
    print_line("2/3 measuring every checkpoint, on prose and on random tokens, through local Ray", err=True)
    uri = str(folder / "lake")
    plan = make_plan(demo_sweep(folder.resolve()), Lake(uri))
    report: RunReport = run(plan, Lake(uri), "ray")
    print_line("3/3 anisotropy and intrinsic dimension of every layer over training", err=True)
    print_tables(uri)
    page, *_ = write_report(open_lake(uri), folder / "report.html")
    print_line(f"the same results as a web page: {page}", err=True)
    return report.exit_code


def print_tables(uri: str) -> None:
    """Print tables of layers by steps for every history, corpus and metric, with a mark at the peak.

    Then print the query of the first table.
    """
    reader = open_lake(uri)
    histories = reader.sql("select distinct model, corpus from layers order by model, corpus desc").fetchall()
    for model, corpus in histories:
        for column, title in TABLE_TITLES.items():
            print_line()
            print_line(f"{model} on {corpus}: {title}, layer by step; * marks the peak")
            _print_table(reader, _query(reader, column, model, corpus), DIGITS[column])
    rows = reader.sql("select count(*) from layers").fetchall()[0][0]
    query = _query(reader, "anisotropy", *histories[0])
    print_line()
    print_line(f"lake      {uri}  ({rows} rows)")
    print_line(f'query     shapelake query "{query}" --lake {uri}')


def _query(reader: LakeReader, column: str, model: str, corpus: str) -> str:
    """Return the SQL of one table. The steps are listed because a pivot would sort them as text."""
    where = f"model = '{model}' and corpus = '{corpus}'"
    steps = reader.sql(f"select distinct step from layers where {where} order by step").fetchall()
    listed = ", ".join(str(step) for (step,) in steps)
    rows = f"select layer, state, step, {column} from layers where {where}"
    return f"pivot ({rows}) on step in ({listed}) using first({column}) order by layer"


def _print_table(reader: LakeReader, query: str, digits: int) -> None:
    found = reader.sql(query)
    rows = found.fetchall()
    peak = max((value for row in rows for value in row[2:] if value is not None), default=None)
    table = Table(box=None, header_style="bold")
    for name in found.columns:
        table.add_column(name, justify="left" if name == "state" else "right")
    for layer, state, *values in rows:
        table.add_row(str(layer), format_value(state), *(_format_value(value, peak, digits) for value in values))
    print_table(table)


def _format_value(value: Any, peak: float | None, digits: int) -> Text:
    if value is None:
        return Text("- ")
    mark = "*" if value == peak else " "
    return Text(f"{value:.{digits}f}{mark}", style="bold" if value == peak else "")
