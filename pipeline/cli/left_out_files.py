"""List of the damaged files that a command has left out, printed after its results; the exit code is then 1."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pipeline.errors import ForeignFileWarning, LeftOutWarning
from pipeline.terminal import log_line

MAX_LISTED = 10


@contextmanager
def exit_1_for_left_out_files() -> Iterator[None]:
    """At the end of the block, list the files that were left out, and turn exit code 0 into 1 if any is damaged."""
    damaged: dict[str, None] = {}
    foreign: dict[str, None] = {}
    show = warnings.showwarning

    def collect(message: Warning | str, category: type[Warning], *where: Any, **options: Any) -> None:
        if issubclass(category, LeftOutWarning | ForeignFileWarning):
            (damaged if issubclass(category, LeftOutWarning) else foreign)[str(message)] = None
        else:
            show(message, category, *where, **options)

    code: Any = 0
    try:
        with warnings.catch_warnings():
            for category in (LeftOutWarning, ForeignFileWarning):
                warnings.simplefilter("always", category)
            warnings.showwarning = collect
            yield
    except SystemExit as left:
        code = left.code
    finally:
        _list([*damaged, *foreign])
    sys.exit(1 if damaged and code in (0, None) else code)


def _list(messages: list[str]) -> None:
    for message in messages[:MAX_LISTED]:
        log_line(f"warning: {message}", "warning")
    if len(messages) > MAX_LISTED:
        log_line(f"warning: and {len(messages) - MAX_LISTED} more; shapelake verify lists all", "warning")
