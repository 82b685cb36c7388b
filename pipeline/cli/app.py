"""The typer application, and options shared by several commands."""

import json
from typing import Annotated, Any

import typer

app = typer.Typer(
    name="shapelake",
    help="Measure the geometry of language-model checkpoints, layer by layer, over a whole training history.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

LakeUri = Annotated[str, typer.Option("--lake", metavar="URI", help="Lake: a folder, s3://, gs:// or az://.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")]


def print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, default=str))
