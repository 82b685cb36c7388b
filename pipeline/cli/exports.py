"""Command that writes a lake for other tools: export."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.app import JsonOption, LakeUri, app, print_json
from pipeline.errors import UsageError
from pipeline.render.tables import format_bytes
from pipeline.terminal import print_line

if TYPE_CHECKING:
    from pipeline.lake.reader import LakeReader

HUB_TARGET = "hub"


@app.command()
def export(
    target: Annotated[
        str, typer.Argument(metavar="DIR|DATASET", help="Output folder or, with --to hub, OWNER/NAME of the dataset.")
    ],
    lake: LakeUri,
    to: Annotated[
        str, typer.Option("--to", metavar="TOOL", help="Tool to export for: tensorboard, wandb, trackio or hub.")
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="DIR",
            help="Folder to write the dataset to, only with --to hub. Default: datasets--OWNER--NAME.",
        ),
    ] = None,
    licence: Annotated[
        str, typer.Option("--license", help="License id of the dataset, only for --to hub.")
    ] = "cc-by-4.0",
    publish: Annotated[
        bool, typer.Option("--upload", help="Upload the dataset to the Hub, only with --to hub.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Write a lake as files of an experiment tracker, with values in the order of steps, or as a Hub dataset.

    A repeated export writes only new runs. Nothing leaves this machine unless --upload is given; it uploads only the
    files of the dataset that the command lists.

    Example: shapelake export --to tensorboard boards --lake lake
    """
    from pipeline import lake as lakes
    from pipeline.export import TRACKER_VIEW_COMMANDS, replay_runs

    if to not in (*TRACKER_VIEW_COMMANDS, HUB_TARGET):
        raise UsageError(
            f"--to {to}",
            "no such tool",
            f"Use one of {', '.join((*TRACKER_VIEW_COMMANDS, HUB_TARGET))}",
        )
    reader = lakes.open_lake(lake)
    if to == HUB_TARGET:
        folder = output or Path(f"datasets--{target.replace('/', '--')}")
        _to_hub(reader, target, folder, licence, publish, as_json)
    elif publish or output:
        raise UsageError(
            "--upload or -o", f"they cannot be used with --to {to}", "Leave them out, or export with --to hub"
        )
    else:
        done = replay_runs(reader, to, target)
        if as_json:
            print_json(done._asdict())
            return
        print_line(
            f"{done.runs_written} runs written, {done.runs_unchanged} unchanged; to view them: {done.view_command}"
        )


def _to_hub(reader: "LakeReader", dataset: str, folder: Path, licence: str, publish: bool, as_json: bool) -> None:
    from pipeline.export import prepare_dataset, upload_dataset

    prepared = prepare_dataset(reader, dataset, folder, licence)
    if as_json:
        uploaded = upload_dataset(prepared, dataset) if publish else None
        print_json({**prepared._asdict(), "uploaded": uploaded})
        return
    print_line(f"{prepared.version} in {prepared.folder}: {prepared.files_written} files written")
    for name, n_bytes in prepared.files.items():
        print_line(f"  {format_bytes(n_bytes):>8}  {name}")
    if publish:
        print_line(f"uploading these {len(prepared.files)} files to the dataset {dataset}")
        print_line(upload_dataset(prepared, dataset))
    else:
        command = ["export", "--to", HUB_TARGET, dataset, "--lake", reader.uri, "-o", str(folder), "--upload"]
        print_line(f"to upload it: shapelake {shlex.join(command)}")
