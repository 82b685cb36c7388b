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
"""Name of the column of flag words, which is also the group of these words; names of the columns that qualify a row."""
LABELLED_LINES = re.compile(r"^(Source|Bias): (.*(?:\n[ \t]+.*)*)", re.MULTILINE)


@dataclass(frozen=True)
class MetricDoc:
    """Documentation of a metric, a flag word or a column that qualifies a row; `source` and `bias` are of metrics
    only."""

    name: str
    group: str
    unit: str
    meaning: str
    source: str
    bias: str


def find_metrics(name: str | None = None) -> tuple[MetricDoc, ...]:
    """Return the documentation of all metrics or, if a name is given, of the metric, group or flag with this name.

    Metrics are in the order of columns.csv. The name `status` gives the column `status`; the name `flags` gives the
    column `flags` and all words that it may contain.

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
    """Yield the documentation of the columns `status` and `flags`, and of every word that `flags` may contain."""
    for column in all_columns():
        if column.name in VERDICT_COLUMNS:
            group = FLAG_GROUP if column.name == FLAG_GROUP else column.group
            yield MetricDoc(column.name, group, column.unit, column.meaning, "", "")
    for word, flag in FLAGS.items():
        nulls = " ".join((*(f"all of {group}" for group in flag.groups), *flag.columns))
        yield MetricDoc(word, FLAG_GROUP, "", flag.meaning + (f"; explains null in: {nulls}" if nulls else ""), "", "")


def format_metrics(metrics: Iterable[MetricDoc]) -> str:
    """Return text with the name, unit, meaning, source and bias of each metric, wrapped to the terminal's width."""
    width = min(shutil.get_terminal_size().columns, 110)
    return "\n\n".join("\n".join(_lines(metric, width)) for metric in metrics)


def _lines(metric: MetricDoc, width: int) -> Iterator[str]:
    yield f"{metric.name}  [{metric.unit}]" if metric.unit else metric.name
    for label, text in (("", metric.meaning), ("source", metric.source), ("bias", metric.bias)):
        if text:
            yield textwrap.fill(text, width, initial_indent=f"  {label:<8}", subsequent_indent=" " * 10)


def _metric(column: Column) -> MetricDoc:
    """Return the documentation of the metric in a column.

    Its source and bias are those of the function or class with the longest name that is the column's name or begins it.
    """
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
    """Return the text after each of the labels Source and Bias in a docstring, joined with its continuation lines."""
    return {label: " ".join(text.split()) for label, text in LABELLED_LINES.findall(docstring)}
