"""The typer application, and options shared by several commands."""

import json
from importlib.metadata import version
from typing import Annotated, Any

import typer

app = typer.Typer(
    name="shapelake",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

DEBUG_OPTION = "--debug"
LOG_OPTION, LOG_ENV = "--log", "SHAPELAKE_LOG"
"""DEBUG_OPTION and LOG_OPTION are accepted anywhere on the command line, and removed before the command is parsed."""
LAKE_ENV = "SHAPELAKE_LAKE"


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"shapelake {version('shapelake')}")
        raise typer.Exit


@app.callback()
def _global_options(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[
        bool,
        typer.Option(
            DEBUG_OPTION, help="Print the traceback of an error. May be given before or after the command's name."
        ),
    ] = False,
    log: Annotated[
        str,
        typer.Option(
            LOG_OPTION,
            metavar="FORMAT",
            envvar=LOG_ENV,
            help="Write progress and errors as text, or as json: one object per line."
            " May be given before or after the command's name.",
        ),
    ] = "text",
) -> None:
    """Measure the geometry of language-model checkpoints, layer by layer, over a whole training history."""


LakeUri = Annotated[
    str,
    typer.Option(
        "--lake",
        metavar="URI",
        envvar=LAKE_ENV,
        help="Lake: a folder, or an address that begins with s3://, gs:// or az://.",
    ),
]
BaseOption = Annotated[
    str | None,
    typer.Option(
        "--base",
        metavar="BASE",
        help="Base model that LoRA adapters are merged into: a folder, or REPO@REVISION on the Hub.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")]


def print_json(value: Any, indent: int | None = 2) -> None:
    """Print a value as JSON on standard output, on one line if `indent` is None."""
    typer.echo(json.dumps(value, indent=indent, default=str))
