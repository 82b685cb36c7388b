"""Metric documentation: source and known bias of every metric, parsed from docstrings without importing the code."""

import ast
import re
import shutil
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from pipeline.columns import FLAGS, METRIC_GROUPS, Column, all_columns
from pipeline.errors import UsageError
from pipeline.strict_model import suggest

FLAG_GROUP, VERDICT_COLUMNS = "flags", ("status", "flags")
"""Column and group of flag words; the columns that qualify a row."""
LABELLED_LINES = re.compile(r"^(Source|Bias): (.*(?:\n[ \t]+.*)*)", re.MULTILINE)


@dataclass(frozen=True)
class MetricDoc:
    """Column of the lake with the labelled lines of its function's docstring."""

    name: str
    group: str
    unit: str
    meaning: str
    source: str
    bias: str


def find_metrics(name: str | None = None) -> tuple[MetricDoc, ...]:
    """Return all metrics in the order of columns.csv or, given a name, the metric, group or flag of this name.

    `status` names the column of that name; `flags` names the column and all words that it may contain.

    Raises:
        UsageError: nothing has this name.
    """
    if name in VERDICT_COLUMNS or name == FLAG_GROUP or name in FLAGS:
        return tuple(doc for doc in _verdict_docs() if name in (doc.name, doc.group))
    every = [column for column in all_columns() if column.group in METRIC_GROUPS]
    chosen = [column for column in every if name in (None, column.name)]
    chosen = chosen or [column for column in every if column.group == name]
    if not chosen:
        near = suggest(str(name), [*METRIC_GROUPS, *FLAGS, FLAG_GROUP, *(column.name for column in every)])
        found = f"no such metric, group or flag{near}"
        raise UsageError(f"metric {name!r}", found, "List all with: shapelake metrics, or: shapelake metrics flags")
    return tuple(map(_metric, chosen))


def _verdict_docs() -> Iterator[MetricDoc]:
    """Yield the columns `status` and `flags`, and every word that `flags` may contain."""
    for column in all_columns():
        if column.name in VERDICT_COLUMNS:
            group = FLAG_GROUP if column.name == FLAG_GROUP else column.group
            yield MetricDoc(column.name, group, column.unit, column.meaning, "", "")
    for word, flag in FLAGS.items():
        nulls = " ".join((*(f"all of {group}" for group in flag.groups), *flag.columns))
        yield MetricDoc(word, FLAG_GROUP, "", flag.meaning + (f"; explains null in: {nulls}" if nulls else ""), "", "")


def format_metrics(metrics: Iterable[MetricDoc]) -> str:
    """Format metrics, wrapped to the terminal's width: name and unit, then meaning, source and bias."""
    width = min(shutil.get_terminal_size().columns, 110)
    return "\n\n".join("\n".join(_lines(metric, width)) for metric in metrics)


def _lines(metric: MetricDoc, width: int) -> Iterator[str]:
    yield f"{metric.name}  [{metric.unit}]" if metric.unit else metric.name
    for label, text in (("", metric.meaning), ("source", metric.source), ("bias", metric.bias)):
        if text:
            yield textwrap.fill(text, width, initial_indent=f"  {label:<8}", subsequent_indent=" " * 10)


def _metric(column: Column) -> MetricDoc:
    """Return a column with the documentation of the function whose name is its longest prefix."""
    owner = max((name for name in _documented() if f"{column.name}_".startswith(f"{name}_")), key=len, default=None)
    if owner is None:
        raise LookupError(f"no function or class documents the metric {column.name}")
    return MetricDoc(column.name, column.group, column.unit, column.meaning, *_documented()[owner])


@cache
def _documented() -> dict[str, tuple[str, str]]:
    """Return (source, bias) by the lower-case name of every function and class whose docstring has both labels."""
    package = files("pipeline")
    texts = [path.read_text() for path in (package / "geometry" / "metrics").iterdir() if path.name.endswith(".py")]
    return {
        node.name.lower(): (labelled["Source"], labelled["Bias"])
        for text in (*texts, (package / "measurement" / "loss.py").read_text())
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        and {"Source", "Bias"} == set(labelled := _labelled_lines(ast.get_docstring(node) or ""))
    }


def _labelled_lines(docstring: str) -> dict[str, str]:
    """Return the labelled lines of a docstring, each joined with its indented continuation."""
    return {label: " ".join(text.split()) for label, text in LABELLED_LINES.findall(docstring)}
