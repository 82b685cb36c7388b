"""The command that hands a lake to other tools: export."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.app import LakeUri, app
from pipeline.errors import UsageError

if TYPE_CHECKING:
    from pipeline.lake.reader import LakeReader

HUB_TARGET = "hub"


@app.command()
def export(
    place: Annotated[str, typer.Argument(metavar="DIR|DATASET", help="A folder; for the hub owner/name.")],
    lake: LakeUri,
    to: Annotated[str, typer.Option("--to", metavar="TOOL", help="tensorboard, wandb, trackio or hub.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="DIR", help="Of the dataset; its name if left out.")
    ] = None,
    licence: Annotated[str, typer.Option("--license", help="Of the dataset, as the Hub spells it.")] = "cc-by-4.0",
    publish: Annotated[
        bool, typer.Option("--upload", help="Upload the dataset; without, it is only prepared.")
    ] = False,
) -> None:
    """Replay a lake to an experiment tracker's own files, sorted by step, or prepare it as a dataset of the Hub.

    A second time only what is new is written. Nothing leaves this machine without --upload.

    Example: shapelake export --to tensorboard boards --lake lake
    """
    from pipeline import lake as lakes
    from pipeline.export import TRACKER_VIEW_COMMANDS, replay_runs

    if to not in (*TRACKER_VIEW_COMMANDS, HUB_TARGET):
        raise UsageError(
            f"--to {to}",
            "no tool that a lake is exported to",
            f"Name one of {', '.join((*TRACKER_VIEW_COMMANDS, HUB_TARGET))}",
        )
    reader = lakes.open_lake(lake)
    if to == HUB_TARGET:
        _to_hub(reader, place, output or Path(place.rpartition("/")[2]), licence, publish)
    elif publish or output:
        raise UsageError("--upload and -o", f"{to} takes neither", "Leave them out")
    else:
        done = replay_runs(reader, to, place)
        typer.echo(
            f"{done.runs_written} runs written, {done.runs_unchanged} were there; to see them: {done.view_command}"
        )


def _to_hub(reader: "LakeReader", dataset: str, folder: Path, licence: str, publish: bool) -> None:
    from pipeline.export import prepare_dataset, upload_dataset

    prepared = prepare_dataset(reader, dataset, folder, licence)
    typer.echo(f"{prepared.version} in {prepared.folder}: {prepared.files_written} files written")
    if publish:
        typer.echo(upload_dataset(prepared, dataset))
    else:
        words = ["export", "--to", HUB_TARGET, dataset, "--lake", reader.uri, "-o", str(folder), "--upload"]
        typer.echo(f"to upload it: shapelake {shlex.join(words)}")
