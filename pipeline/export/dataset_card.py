"""Dataset card: the README.md with the metadata that the Hub and its readers need."""

import polars as pl

from pipeline.columns import METRIC_GROUPS, all_columns

CARD_TEMPLATE = """---
pretty_name: {name}
license: {licence}
tags: [interpretability, training-dynamics, anisotropy, intrinsic-dimension, shapelake]
size_categories: [{size}]
configs:
- config_name: layers
  default: true
  data_files: data/layers.parquet
- config_name: checkpoints
  data_files: data/checkpoints.parquet
---

# {name}

Geometry of the hidden states of language models over training: one row per checkpoint, text and layer. Measured by
shapelake, which implements Razzhigaev et al., *The Shape of Learning* (EACL 2024, arXiv 2311.05928).

Version `{version}`, measured {first} to {last}: {rows} rows, {labels} checkpoints, texts {corpora}, recipes {recipes}.
A version is a digest of the data; cite it, and read it by its tag.

| model | checkpoints | steps |
|---|---|---|
{models}

## How to read

```python
pd.read_parquet("hf://datasets/{dataset}@{version}/data/layers.parquet")
pl.scan_parquet("hf://datasets/{dataset}@{version}/data/layers.parquet")
duckdb.sql("from 'hf://datasets/{dataset}@{version}/data/layers.parquet'")
load_dataset("{dataset}", "layers", revision="{version}")
```

`layers` has one row per label and layer; `checkpoints` one row per label, with its audit. No value is NaN: an unknown
value is null, with the reason in `flags`. Standard errors (`_se`) are over disjoint groups of contexts. Numbers of
different recipes are not comparable; each recipe is in `recipes/`.

## Columns

The measured columns; `columns.csv` has all of them.

| column | unit | meaning |
|---|---|---|
{columns}

## Licence and citation

The numbers are under {licence}. The models and texts have their own licences and are not part of this dataset.

```bibtex
@inproceedings{{razzhigaev2024shape,
  title={{The Shape of Learning: Anisotropy and Intrinsic Dimensions in Transformer-Based Models}},
  author={{Razzhigaev, Anton and Mikhalchuk, Matvey and Goncharova, Elizaveta and Oseledets, Ivan and Dimitrov, Denis
    and Kuznetsov, Andrey}},
  booktitle={{Findings of the Association for Computational Linguistics: EACL 2024}},
  year={{2024}}
}}
@misc{{{key},
  title={{{name}, version {version}}},
  howpublished={{Hugging Face dataset {dataset}}},
  year={{{year}}}
}}
```
"""
SIZE_CATEGORIES = {1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", 1_000_000: "100K<n<1M"}


def format_card(layers: pl.DataFrame, dataset: str, version: str, licence: str) -> str:
    """Return the card of a dataset of these rows. It depends on nothing else, such as the current date."""
    name, written = dataset.split("/")[1], layers["written_at"]
    return CARD_TEMPLATE.format(
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
        columns="\n".join(
            f"| `{c.name}` | {c.unit} | {c.meaning} |" for c in all_columns() if c.group in METRIC_GROUPS
        ),
        key=name.replace("-", "_"),
    )


def _join_names(column: pl.Series) -> str:
    return ", ".join(f"`{value}`" for value in column.unique().sort())


def _models(layers: pl.DataFrame) -> str:
    models = layers.group_by("model").agg(
        pl.col("revision").n_unique(), low=pl.col("step").min(), high=pl.col("step").max()
    )
    return "\n".join(
        f"| {model} | {labels} | {'not stated' if low is None else f'{low:,} to {high:,}'} |"
        for model, labels, low, high in models.sort("model").iter_rows()
    )
