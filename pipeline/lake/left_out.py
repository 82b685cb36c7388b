"""Warnings about files of a lake that readers leave out. Reading goes on, and each file is reported once."""

import warnings
from collections.abc import Mapping

from pipeline.errors import ForeignFileWarning, LeftOutWarning


def leave_out(uri: str, found_by_key: Mapping[str, str]) -> None:
    """Warn about each damaged file; `found_by_key` maps its key to the reason. Python shows each warning once."""
    for key, found in found_by_key.items():
        warnings.warn(LeftOutWarning(f"lake {uri}: {_shown(key)} is left out: {found}"), stacklevel=2)


def ignore_foreign(uri: str, key: str, found: str) -> None:
    """Warn about a file that does not belong to the lake."""
    warnings.warn(ForeignFileWarning(f"lake {uri}: {_shown(key)} is ignored: {found}"), stacklevel=2)


def _shown(key: str) -> str:
    return key if key.isprintable() else repr(key)  # a name may contain terminal control codes
