"""Command for training runs: watch."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.app import BaseOption, JsonOption, app, print_json
from pipeline.spec import Resources
from pipeline.terminal import print_line

DEFAULT_LAKE_FOLDER = ".shapelake"
"""Name of the default lake, a folder inside the watched folder."""
AlertOption = Annotated[
    list[str] | None,
    typer.Option(
        "--alert",
        metavar="RULE",
        help="Alert on METRIC[@LAYERS]>ERRORS, such as id_mle@blocks>4 (over 4 standard errors); may be repeated.",
    ),
]


@app.command()
def watch(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER", help="Folder of the training run, with subfolders such as step512 or checkpoint-1000."
        ),
    ],
    lake: Annotated[str | None, typer.Option("--lake", metavar="URI", help="Lake. Default: FOLDER/.shapelake.")] = None,
    corpus: Annotated[str, typer.Option("--corpus", metavar="KIND[:PATH]", help="Corpus to measure on.")] = "enwik8",
    recipe: Annotated[
        str, typer.Option("--recipe", metavar="NAME", help="Built-in recipe, or the fields of a recipe as YAML.")
    ] = "quick@1",
    tokenizer: Annotated[Path | None, typer.Option("--tokenizer", help="Folder of the tokenizer files.")] = None,
    base: BaseOption = None,
    layers: Annotated[
        str,
        typer.Option("--layers", help="Layers to report: blocks, all, one layer such as 5, or a range such as 3-9."),
    ] = "blocks",
    alert: AlertOption = None,
    on_alert: Annotated[
        str | None,
        typer.Option(
            "--on-alert",
            metavar="COMMAND|URL",
            help="Shell command to run with the alert as JSON in $SHAPELAKE_ALERT,"
            " or http(s) URL to POST this JSON to.",
        ),
    ] = None,
    once: Annotated[
        bool,
        typer.Option("--once", help="Make one pass over the complete checkpoints; the exit code is 3 after an alert."),
    ] = False,
    every: Annotated[float, typer.Option("--every", min=0, metavar="S", help="Polling interval in seconds.")] = 10.0,
    niceness: Annotated[int, typer.Option("--nice", min=0, max=19, help="Niceness of the process.")] = 10,
    threads: Annotated[int, typer.Option("--threads", min=1, help="Number of CPU threads.")] = 1,
    gpu_share: Annotated[
        float | None,
        typer.Option("--gpu-share", min=0, max=1, help="Measure on the GPU, with at most this fraction of its memory."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Watch a training run: measure each checkpoint when it is complete, and raise an alert when a metric changes.

    Each line begins with its time (UTC); --json prints one JSON object per line. With --once, only checkpoints are
    reported that are not in the lake yet.

    Example: shapelake watch runs/mine --corpus text:book.txt --alert "id_mle@blocks>4" --on-alert ./stop.sh
    """
    from pipeline.catalog.discovery import find_base
    from pipeline.lake import Lake
    from pipeline.sweep.measure_one import parse_corpus, parse_recipe
    from pipeline.watch import (
        AlertRule,
        LayerSelection,
        WatchConfig,
        check_watch,
        describe_watch,
        lower_priority,
        watch_folder,
    )

    config = WatchConfig(
        folder=folder.resolve(),
        rules=tuple(AlertRule.parse(text) for text in alert or []),
        layers=LayerSelection.parse(layers),
        lake=Lake.writable(lake or str(folder / DEFAULT_LAKE_FOLDER)),
        recipe=parse_recipe(recipe),
        corpus=parse_corpus(corpus),
        resources=Resources(cpus=threads, slots=1, gpus=int(gpu_share is not None)),
        tokenizer=str(tokenizer.resolve()) if tokenizer else None,
        base=find_base(base) if base else None,
    )
    check_watch(config, on_alert)
    lower_priority(niceness, gpu_share)
    write_line = _write_json if as_json else _write_with_time
    for line in describe_watch(config, every):
        write_line(line)
    raise typer.Exit(watch_folder(config, write_line, every, once, on_alert))


def _write_with_time(line: str) -> None:
    print_line(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S}Z  {line}")


def _write_json(line: str) -> None:
    print_json({"time": datetime.now(UTC).isoformat(timespec="seconds"), "message": line}, indent=None)
