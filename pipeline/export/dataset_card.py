"""Dataset card: the README.md with the metadata that the Hub and its readers need; text only, no file access."""

from importlib.resources import files

import polars as pl

from pipeline.columns import METRIC_GROUPS, all_columns

SIZE_CATEGORIES = {1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", 1_000_000: "100K<n<1M"}


def format_card(layers: pl.DataFrame, dataset: str, version: str, licence: str) -> str:
    """Return the card of a dataset of these rows. It depends on nothing else, such as the current date."""
    name, written = dataset.split("/")[1], layers["written_at"]
    columns = [column for column in all_columns() if column.group in METRIC_GROUPS]
    template = (files("pipeline.export") / "dataset_card.md").read_text()
    return template.format(
        name=name,
        dataset=dataset,
        version=version,
        licence=licence,
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
        key=name.replace("-", "_"),
    )


def _join_names(column: pl.Series) -> str:
    return ", ".join(f"`{value}`" for value in column.unique().sort())


def _models(layers: pl.DataFrame) -> str:
    revision, step = pl.col("revision"), pl.col("step")
    models = layers.group_by("model").agg(revision.n_unique(), low=step.min(), high=step.max())
    return "\n".join(
        f"| {model} | {labels} | {'not stated' if low is None else f'{low:,} to {high:,}'} |"
        for model, labels, low, high in models.sort("model").iter_rows()
    )
