"""A written page as a program reads it: its elements, and the data in it."""

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

VOID = {"meta", "input", "br", "link"}


class Page(HTMLParser):
    """`elements`: (name, attributes, own text). Elements that are not closed, or closed twice, are an error."""

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
        for place in self._open:
            self.elements[place][2].append(data)

    def all(self, tag: str, **attributes: str) -> list[tuple[dict[str, str | None], str]]:
        """(attributes, text) of the elements of this name, a word of `class` counting as the class."""
        return [
            (found, " ".join("".join(text).split()))
            for name, found, text in self.elements
            if name == tag and all(_has(found, key.rstrip("_"), value) for key, value in attributes.items())
        ]

    def text(self, tag: str, **attributes: str) -> str:
        ((_, text),) = self.all(tag, **attributes)
        return text

    def rows(self, table: str) -> list[dict[str, Any]]:
        """The rows of one of its tables of data."""
        found = self.data["tables"][table]
        columns = {
            name: [column["words"][place] for place in column["at"]] if isinstance(column, dict) else column
            for name, column in found["columns"].items()
        }
        return [{name: values[row] for name, values in columns.items()} for row in range(found["rows"])]


def _has(found: dict[str, str | None], key: str, value: str) -> bool:
    return value in (found.get(key) or "").split() if key == "class" else found.get(key) == value
