"""The program and the options that several commands have."""

import json
from typing import Annotated, Any

import typer

app = typer.Typer(
    name="shapelake",
    help="The shape of the space in which a language model thinks, layer by layer, over a whole training history.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

LakeUri = Annotated[str, typer.Option("--lake", metavar="URI", help="Folder of the Parquet results.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Machine-readable, on standard output.")]


def print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, default=str))
