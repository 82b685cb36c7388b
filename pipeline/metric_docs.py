"""What every metric means, where it comes from and how it errs: read from the code's docstrings, without running it."""

import ast
import re
import shutil
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from pipeline.columns import METRIC_GROUPS, Column, all_columns
from pipeline.errors import UsageError
from pipeline.strict_model import suggest

LABELLED_LINES = re.compile(r"^(Source|Bias): (.*(?:\n[ \t]+.*)*)", re.MULTILINE)


@dataclass(frozen=True)
class MetricDoc:
    """A column of the lake, with what the docstring of its function says."""

    name: str
    group: str
    unit: str
    meaning: str
    source: str
    bias: str


def find_metrics(asked: str | None = None) -> tuple[MetricDoc, ...]:
    """Every metric in the order of columns.csv; or the one of that name, or else the group of that name.

    Raises:
        UsageError: a name that is neither a metric nor a group.
    """
    every = [column for column in all_columns() if column.group in METRIC_GROUPS]
    chosen = [column for column in every if asked in (None, column.name)]
    chosen = chosen or [column for column in every if column.group == asked]
    if not chosen:
        near = suggest(str(asked), [*METRIC_GROUPS, *(column.name for column in every)])
        raise UsageError(f"metric {asked!r}", f"no such metric or group{near}", "List all: shapelake metrics")
    return tuple(map(_metric, chosen))


def format_metrics(found: Iterable[MetricDoc]) -> str:
    """The metrics for people: name and unit, then meaning, source and bias, as wide as the terminal."""
    width = min(shutil.get_terminal_size().columns, 110)
    return "\n\n".join("\n".join(_lines(metric, width)) for metric in found)


def _lines(metric: MetricDoc, width: int) -> Iterator[str]:
    yield f"{metric.name}  [{metric.unit}]" if metric.unit else metric.name
    for word, text in (("", metric.meaning), ("source", metric.source), ("bias", metric.bias)):
        yield textwrap.fill(text, width, initial_indent=f"  {word:<8}", subsequent_indent=" " * 10)


def _metric(column: Column) -> MetricDoc:
    """A column with the documentation of the longest name that it begins with."""
    owner = max((name for name in _documented() if f"{column.name}_".startswith(f"{name}_")), key=len, default=None)
    if owner is None:
        raise LookupError(f"no function or class documents the metric {column.name}")
    return MetricDoc(column.name, column.group, column.unit, column.meaning, *_documented()[owner])


@cache
def _documented() -> dict[str, tuple[str, str]]:
    """(source, bias) by the lower-case name of every function and class that states both."""
    package = files("pipeline")
    texts = [path.read_text() for path in (package / "geometry" / "metrics").iterdir() if path.name.endswith(".py")]
    return {
        node.name.lower(): (said["Source"], said["Bias"])
        for text in (*texts, (package / "loss.py").read_text())
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        and {"Source", "Bias"} == set(said := _said(ast.get_docstring(node) or ""))
    }


def _said(docstring: str) -> dict[str, str]:
    """The labelled lines of a docstring, each with its indented continuation."""
    return {label: " ".join(text.split()) for label, text in LABELLED_LINES.findall(docstring)}
