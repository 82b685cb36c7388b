"""Command for other tools: export."""

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
    target: Annotated[str, typer.Argument(metavar="DIR|DATASET", help="Output folder; with --to hub, OWNER/NAME.")],
    lake: LakeUri,
    to: Annotated[str, typer.Option("--to", metavar="TOOL", help="Target tool: tensorboard, wandb, trackio or hub.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", metavar="DIR", help="New folder of the dataset. Default: datasets--OWNER--NAME."
        ),
    ] = None,
    licence: Annotated[str, typer.Option("--license", help="License id of the dataset.")] = "cc-by-4.0",
    publish: Annotated[bool, typer.Option("--upload", help="Upload the dataset to the Hub.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write a lake as files of an experiment tracker, sorted by step, or as a Hub dataset.

    A repeated export writes only new runs. Nothing leaves this machine without --upload, which uploads only the listed
    files of the dataset.

    Example: shapelake export --to tensorboard boards --lake lake
    """
    from pipeline import lake as lakes
    from pipeline.export import TRACKER_VIEW_COMMANDS, replay_runs

    if to not in (*TRACKER_VIEW_COMMANDS, HUB_TARGET):
        raise UsageError(
            f"--to {to}",
            "unknown tool",
            f"Use one of {', '.join((*TRACKER_VIEW_COMMANDS, HUB_TARGET))}",
        )
    reader = lakes.open_lake(lake)
    if to == HUB_TARGET:
        folder = output or Path(f"datasets--{target.replace('/', '--')}")
        _to_hub(reader, target, folder, licence, publish, as_json)
    elif publish or output:
        raise UsageError("--upload or -o", f"--to {to} accepts neither", "Leave them out, or export --to hub")
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
