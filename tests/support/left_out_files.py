"""Warnings about the files of a lake that a reader leaves out."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.errors import ForeignFileWarning, LeftOutWarning


@contextmanager
def left_out_files(category: type[Warning] = LeftOutWarning) -> Iterator[list[str]]:
    """Collect the messages of these warnings, each message once."""
    messages: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            yield messages
        finally:
            messages += dict.fromkeys(str(one.message) for one in caught if issubclass(one.category, category))


def foreign_files():
    return left_out_files(ForeignFileWarning)
