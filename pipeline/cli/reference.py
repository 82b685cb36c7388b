"""Reference page of all commands, rendered from the typer application independently of the terminal's width.

python -m pipeline.cli.reference > pipeline/cli/reference.md
"""

import sys
from collections.abc import Iterator
from typing import Any

import typer

from pipeline.cli import app

HEADER = """# Command reference

Written by `python -m pipeline.cli.reference > pipeline/cli/reference.md`; a test compares this page with the commands.
`shapelake COMMAND --help` prints the same text.
"""


def list_commands() -> dict[str, Any]:
    """Return the click command behind each `shapelake` command, by name, in the order of `shapelake --help`."""
    group: Any = typer.main.get_command(app)
    return dict(group.commands)


def render_reference() -> str:
    """Return the page as Markdown."""
    return "\n".join((HEADER, *(line for name, command in list_commands().items() for line in _section(name, command))))


def _section(name: str, command: Any) -> Iterator[str]:
    context = typer.Context(command, info_name=f"shapelake {name}")
    *paragraphs, example = command.help.split("\n\n")
    yield f"## {name}\n"
    yield from (f"{' '.join(paragraph.split())}\n" for paragraph in paragraphs)
    yield f"```\n{example.removeprefix('Example: ')}\n```\n"
    yield "| option | meaning |\n|---|---|"
    for parameter in command.params:
        names, meaning = parameter.get_help_record(context)
        if parameter.param_type_name == "argument":
            names = names.partition(" <")[0]
        yield f"| `{_cell(names)}` | {_cell(meaning)} |"
    yield ""


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(render_reference())
