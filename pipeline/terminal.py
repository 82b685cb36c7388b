"""Terminal output for people, safe for text from names, files and errors: control characters are escaped."""

import sys
import unicodedata

ESCAPED_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Unicode categories of control and format characters (also of text direction), lone surrogates and line separators."""


def print_line(text: str = "", err: bool = False) -> None:
    """Print one line; line breaks in the text are escaped too."""
    print_text(escape_control(text) + "\n", err)


def print_text(text: str, err: bool = False) -> None:
    """Print text that may have several lines, without a line feed at its end."""
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
