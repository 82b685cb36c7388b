"""Parser of a written page: its elements and its embedded data."""

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

VOID = {"meta", "input", "br", "link"}


class Page(HTMLParser):
    """Parsed page. `elements` are (name, attributes, text); unbalanced elements raise an AssertionError."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None], list[str]]] = []
        self._open: list[int] = []
        self.feed(path.read_text())
        self.close()
        assert not self._open
        self.data = json.loads(self.text("script", id="data"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs), []))
        if tag not in VOID:
            self._open.append(len(self.elements) - 1)

    def handle_endtag(self, tag: str) -> None:
        assert self.elements[self._open.pop()][0] == tag

    def handle_data(self, data: str) -> None:
        for index in self._open:
            self.elements[index][2].append(data)

    def all(self, tag: str, **attributes: str) -> list[tuple[dict[str, str | None], str]]:
        """Return (attributes, text) of the matching elements; `class_` matches one of an element's classes."""
        return [
            (found, " ".join("".join(text).split()))
            for name, found, text in self.elements
            if name == tag and all(_has(found, key.rstrip("_"), value) for key, value in attributes.items())
        ]

    def text(self, tag: str, **attributes: str) -> str:
        ((_, text),) = self.all(tag, **attributes)
        return text

    def rows(self, table: str) -> list[dict[str, Any]]:
        """Decode the rows of an embedded data table."""
        encoded = self.data["tables"][table]
        columns = {
            name: [column["words"][index] for index in column["at"]] if isinstance(column, dict) else column
            for name, column in encoded["columns"].items()
        }
        return [{name: values[row] for name, values in columns.items()} for row in range(encoded["rows"])]


def _has(found: dict[str, str | None], key: str, value: str) -> bool:
    return value in (found.get(key) or "").split() if key == "class" else found.get(key) == value
