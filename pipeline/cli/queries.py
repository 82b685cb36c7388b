"""Commands that read a lake: query, findings, report, figure, metrics."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from pipeline import render
from pipeline.cli.app import JsonOption, LakeUri, app, print_json
from pipeline.errors import UsageError
from pipeline.terminal import print_line, print_text

ALL_FIGURES = "all"
CorpusGlob = Annotated[
    str, typer.Option("--corpus", metavar="GLOB", help="Use only corpora that match this glob, such as 'text:*'.")
]
ModelsGlob = Annotated[
    str, typer.Option("--models", metavar="GLOB", help="Use only models whose names match this glob.")
]


@app.command()
def query(
    sql: Annotated[
        str,
        typer.Argument(
            metavar="SQL", help="SQL on the views layers, checkpoints and cells, or @NAME for a saved query."
        ),
    ],
    lake: LakeUri,
    as_json: JsonOption = False,
    as_csv: Annotated[
        bool, typer.Option("--csv", help="Print CSV on standard output; texts that start with = + - @ get a leading '.")
    ] = False,
) -> None:
    """Query the lake with SQL.

    Example: shapelake query "select step, layer, anisotropy from layers order by 1, 2" --lake lake
    """
    from pipeline import lake as lakes
    from pipeline.lake.reader import require_single_query
    from pipeline.lake.saved_queries import resolve_query

    if as_json and as_csv:
        raise UsageError("--json and --csv", "both were given", "Choose one of them")
    found = lakes.open_lake(lake).query_frame(require_single_query(resolve_query(sql)))
    printed = render.print_csv if as_csv else render.print_json_rows if as_json else render.print_query_result
    printed(found.columns, found.rows())


@app.command()
def findings(
    lake: LakeUri,
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Finding to compute. Default: all.")] = None,
    models: ModelsGlob = "*",
    corpus: CorpusGlob = "*",
    layers: Annotated[bool, typer.Option("--layers", help="Also print one line per layer.")] = False,
    every: Annotated[
        bool, typer.Option("--all", help="Print every row as a full sentence, rows without a verdict included.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Compute findings (dome, phases, nulls, sinks, trust ...), and print one line per history and corpus.

    A line has the verdict, the effect with its 95 % interval, and one short sentence. --json prints all rows with all
    columns.

    Example: shapelake findings dome --lake lake
    """
    from pipeline import lake as lakes
    from pipeline.analysis import FINDINGS, compute_findings, summarize_finding

    found = compute_findings([name] if name else list(FINDINGS), lakes.open_lake(lake), models, corpus)
    questions = {finding: FINDINGS[finding].question for finding in found}
    if as_json:
        print_json({finding: frame.to_dicts() for finding, frame in found.items()})
    elif every:
        render.print_findings(questions, found)
    else:
        briefs = {finding: summarize_finding(finding, frame, layers) for finding, frame in found.items()}
        render.print_briefs(questions, briefs)


@app.command()
def report(
    lake: LakeUri,
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="FILE", help="Output file, with extension .html.")
    ] = Path("report.html"),
    models: ModelsGlob = "*",
    as_json: JsonOption = False,
) -> None:
    """Write an interactive HTML report.

    The report is one self-contained file or, for a large lake, an index and a folder with one page per history. For
    very many models only the index is written; --models then selects models that get pages.

    Example: shapelake report --lake lake -o report.html
    """
    from pipeline import lake as lakes
    from pipeline.report import write_report

    files = write_report(lakes.open_lake(lake), output, models)
    if as_json:
        print_json({"files": [str(path) for path in files], "note": files.note or None})
        return
    print_line(str(files[0]))
    if files.note:
        print_line(files.note)


@app.command()
def figure(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help="Figure, such as anisotropy-depth, or all. An unknown name prints the list."
        ),
    ],
    lake: LakeUri,
    folder: Annotated[Path | None, typer.Argument(metavar="[DIR]", help="Output folder, only if NAME is all.")] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="Output file: .svg, .png or .pdf.")
    ] = None,
    models: ModelsGlob = "*",
    corpus: CorpusGlob = "*",
    estimator: Annotated[
        str, typer.Option("--estimator", help="Intrinsic dimension to draw: id_twonn, id_mle or id_authors.")
    ] = "id_twonn",
    step: Annotated[int | None, typer.Option("--step", help="Training step. Default: the newest.")] = None,
    run: Annotated[
        str | None,
        typer.Option(
            "--run",
            metavar="MODEL",
            help="Run that the figures population-* draw over the band of the other runs of its size.",
        ),
    ] = None,
    width: Annotated[int, typer.Option("--width", min=120, metavar="PT", help="Printed width in points.")] = 480,
    height: Annotated[
        int | None,
        typer.Option(
            "--height",
            min=40,
            metavar="PT",
            help="Height of the plot area in points; stacked charts share it, and each facet has all of it.",
        ),
    ] = None,
    title: Annotated[str | None, typer.Option("--title", help="Title that replaces the figure's own title.")] = None,
    no_title: Annotated[bool, typer.Option("--no-title", help="Draw no title.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Draw a figure for a paper, with a caption in a file beside it (NAME.caption.md), or draw all figures into DIR.

    Text in .svg and .pdf stays selectable, and is 8 points or larger at the given width. A width of 240 points fits a
    column, and one of 480 fits a page.

    Example: shapelake figure id-training --lake lake -o id.svg
    """
    from pipeline import lake as lakes
    from pipeline.report import FigureOptions, draw_all_figures, draw_figure

    options = FigureOptions(models, corpus, estimator, step, run, width, height, "" if no_title else title)
    if name != ALL_FIGURES:
        if output is None or folder is not None:
            raise UsageError(f"figure {name}", "it needs an output file and no folder", f"Write -o {name}.svg")
        drawn = {name: draw_figure(lakes.open_lake(lake), name, output, options)}
    else:
        if folder is None or output is not None:
            do = "Write: shapelake figure all DIR --lake LAKE"
            raise UsageError("figure all", "it needs a folder and no output file", do)
        drawn = dict(draw_all_figures(lakes.open_lake(lake), folder, options))
    files = [str(path) for path in drawn.values() if path]
    if as_json:
        print_json({"files": files})
        return
    for label, path in drawn.items():
        print_line(str(path) if path else f"{label}: no data in this lake")


@app.command()
def metrics(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", help="Metric, group of metrics, flag, or status. Default: all metrics."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Print the unit, meaning, source and known bias of each metric, or the meaning of a flag.

    `shapelake metrics flags` explains every word of the column `flags`; `shapelake metrics status` explains the column
    `status`.

    Example: shapelake metrics id_twonn
    """
    from pipeline.metric_docs import find_metrics, format_metrics

    found = find_metrics(name)
    print_json([asdict(metric) for metric in found]) if as_json else print_text(f"{format_metrics(found)}\n")
