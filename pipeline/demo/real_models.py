"""Demo with published weights: measure a decoder and an encoder, and print anisotropy and dimension over depth."""

import os
from pathlib import Path
from typing import Any

from rich.table import Table

from pipeline.demo.prose import write_held_out_prose
from pipeline.demo.trained_models import DECODER, ENCODER, provide_trained_models
from pipeline.lake import Lake, LakeReader, open_lake
from pipeline.render import print_run_report
from pipeline.render.tables import print_table
from pipeline.similarity.settings import Similarity
from pipeline.spec import Corpus, Local, Resources, Sweep, built_in_recipe
from pipeline.sweep.plan import make_plan
from pipeline.sweep.run import run
from pipeline.terminal import print_line

TABLE_COLUMNS = {
    "anisotropy": ("anisotropy", 3),
    "anisotropy_no_sink": ("without sinks", 3),
    "id_twonn": ("dimension (TwoNN)", 1),
    "id_twonn_se": ("± standard error", 1),
}


def real_sweep(checkpoints: dict[str, Path], prose: Path) -> Sweep:
    """Return the sweep of these checkpoints, given as folders by model name, on held-out text and on random tokens."""
    return Sweep(
        name="demo-real",
        checkpoints=tuple(Local(local=str(path), model=name) for name, path in checkpoints.items()),
        corpora=(Corpus(kind="text", path=str(prose)), Corpus(kind="random-uniform")),
        recipe=built_in_recipe("real@1"),
        similarity=Similarity(),
        resources=Resources(cpus=os.cpu_count() or 1, slots=1),
    )


def run_real_demo(folder: Path) -> int:
    """Provide missing models, measure missing cells, print tables and a report; return the exit code.

    The sweep runs in this process, so that the progress inside a cell is shown.
    """
    from pipeline.report import write_report

    print_line(f"1/3 fetching {DECODER} (decoder) and {ENCODER} (encoder), once", err=True)
    checkpoints = provide_trained_models()
    print_line("2/3 measuring both, on prose and on random tokens", err=True)
    prose = write_held_out_prose(folder.resolve())
    uri = str(folder / "lake")
    plan = make_plan(real_sweep(checkpoints, prose), Lake(uri))
    report = run(plan, Lake(uri), "inline")
    if report.exit_code:
        print_run_report(report, plan, uri)
        return report.exit_code
    print_line("3/3 anisotropy and intrinsic dimension of every layer", err=True)
    print_profiles(open_lake(uri))
    print_line(f"lake      {uri}")
    print_line(f"figure    shapelake figure anisotropy-depth --lake {uri} -o anisotropy.png")
    print_line(f"          shapelake figure similarity-layers --lake {uri} -o similarity.png")
    page, *_ = write_report(open_lake(uri), folder / "report.html")
    print_line(f"the same results as a web page: {page}", err=True)
    return 0


def print_profiles(reader: LakeReader) -> None:
    """Print one table per model and corpus, with one line per layer."""
    histories = "select distinct model, kind, corpus from layers order by kind, model, corpus desc"
    for model, kind, corpus in reader.sql(histories).fetchall():
        print_line(f"{model} ({kind}) on {corpus}")
        where = f"model = '{model}' and corpus = '{corpus}'"
        columns = ", ".join(TABLE_COLUMNS)
        rows = reader.sql(f"select layer, state, {columns} from layers where {where} order by layer").fetchall()
        print_table(_profile_table(rows))
        print_line()


def _profile_table(rows: list[tuple[Any, ...]]) -> Table:
    table = Table(box=None, header_style="bold")
    for title in ("layer", "state", *(title for title, _ in TABLE_COLUMNS.values())):
        table.add_column(title, justify="left" if title == "state" else "right")
    for layer, state, *values in rows:
        digits = [digits for _, digits in TABLE_COLUMNS.values()]
        shown = ("-" if value is None else f"{value:.{n}f}" for value, n in zip(values, digits, strict=True))
        table.add_row(str(layer), state, *shown)
    return table
