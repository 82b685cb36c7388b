"""Terminal output for people, safe for text from names, files and errors: control characters are escaped."""

import json
import sys
import unicodedata
from datetime import UTC, datetime
from typing import Any

ESCAPED_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Unicode categories of control characters, format characters (such as those for text direction), lone surrogates, and
line and paragraph separators."""

LOG_FORMATS = ("text", "json")
_log_format = "text"


def set_log_format(name: str) -> None:
    """Choose how `log_line` writes: `text` for people, or `json` for log collectors."""
    global _log_format
    _log_format = name


def logs_as_json() -> bool:
    """Return True if log lines are JSON objects."""
    return _log_format == "json"


def log_line(text: str, level: str = "info", **fields: Any) -> None:
    """Write progress, a warning or an error to standard error; as JSON one object per line.

    Args:
        level: info, warning or error.
        fields: values that the text states; they become fields of the JSON object, and are not written as text.
    """
    if not logs_as_json():
        print_text(text + "\n", err=True)
        return
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    record = {"time": now, "level": level, "message": text, **fields}
    print(json.dumps(record, default=str), file=sys.stderr, flush=True)


def print_line(text: str = "", err: bool = False) -> None:
    """Print one line; control characters of the text, line breaks included, are escaped."""
    print_text(escape_control(text) + "\n", err)


def print_text(text: str, err: bool = False) -> None:
    """Print text that may have several lines; no line feed is added at its end."""
    print(escape_lines(text), end="", file=sys.stderr if err else sys.stdout, flush=True)


def escape_control(text: str) -> str:
    r"""Return the text on one line, with each control character as Python writes it: `\x1b`, `\n`, `\u202e`."""
    if text.isprintable():
        return text
    return "".join(_escape(char) if unicodedata.category(char) in ESCAPED_CATEGORIES else char for char in text)


def escape_lines(text: str) -> str:
    """Return the text with every control character escaped except line feeds and tabs."""
    return "\n".join("\t".join(map(escape_control, line.split("\t"))) for line in text.split("\n"))


def _escape(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")
