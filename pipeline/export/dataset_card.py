"""Dataset card: the text of a README.md with the metadata that the Hub and its readers need."""

import json
import re
from importlib.resources import files

import polars as pl

from pipeline.columns import METRIC_GROUPS, all_columns
from pipeline.terminal import escape_control

SIZE_CATEGORIES = {1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", 1_000_000: "100K<n<1M"}

MARKUP = re.compile(r"[\\`*_\[\]<>&|~#!$:@]|(?<=www)\.", re.IGNORECASE)
"""Characters with a meaning in Markdown, HTML, tables, formulas or automatic links."""


def format_card(layers: pl.DataFrame, dataset: str, version: str, licence: str) -> str:
    """Return the card of a dataset with these rows. It does not depend on the date or on files of the dataset."""
    name, written = dataset.split("/")[1], layers["written_at"]
    columns = [column for column in all_columns() if column.group in METRIC_GROUPS]
    template = (files("pipeline.export") / "dataset_card.md").read_text()
    return template.format(
        name=_escape_markdown(name),
        name_yaml=_quote_yaml(name),
        name_bibtex=escape_control(name),
        dataset=escape_control(dataset),
        version=version,
        licence=_escape_markdown(licence),
        licence_yaml=_quote_yaml(licence),
        size=next((word for most, word in SIZE_CATEGORIES.items() if layers.height < most), "n>1M"),
        first=f"{written.min():%Y-%m-%d}",
        last=f"{written.max():%Y-%m-%d}",
        year=f"{written.max():%Y}",
        rows=f"{layers.height:,}",
        labels=layers.select("model", "revision").n_unique(),
        corpora=_join_names(layers["corpus"]),
        recipes=_join_names(layers["recipe"]),
        models=_models(layers),
        columns="\n".join(f"| `{c.name}` | {c.unit} | {c.meaning} |" for c in columns),
        key=escape_control(name).replace("-", "_"),
    )


def _join_names(column: pl.Series) -> str:
    return ", ".join(_code_span(value) for value in column.unique().sort())


def _models(layers: pl.DataFrame) -> str:
    revision, step = pl.col("revision"), pl.col("step")
    models = layers.group_by("model").agg(revision.n_unique(), low=step.min(), high=step.max())
    return "\n".join(
        f"| {_escape_markdown(model)} | {labels} | {'not stated' if low is None else f'{low:,} to {high:,}'} |"
        for model, labels, low, high in models.sort("model").iter_rows()
    )


def _escape_markdown(text: str) -> str:
    """Return Markdown, also valid in a table cell, that shows the text as it is, on one line."""
    return MARKUP.sub(r"\\\g<0>", escape_control(text))


def _code_span(text: str) -> str:
    """Return a code span whose delimiter is longer than every run of backticks in the text."""
    text = escape_control(text)
    delimiter = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    pad = " " if "`" in text else ""
    return f"{delimiter}{pad}{text}{pad}{delimiter}"


def _quote_yaml(text: str) -> str:
    """Return a double-quoted YAML scalar."""
    return json.dumps(escape_control(text), ensure_ascii=False)
