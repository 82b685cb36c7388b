"""Loading of the rows of a few models at a time, so that memory does not grow with the lake.

The rows equal those that `load_layer_rows` returns for the whole lake. Names that depend on all models, such as the
names of two texts that share a corpus name, are decided once for the lake.
"""

from collections.abc import Collection, Iterator
from fnmatch import fnmatchcase

import polars as pl

from pipeline.analysis.frames import (
    complete_rows,
    disambiguate_corpora,
    load_audit_states,
    load_group_counts,
    load_record_keys,
    shared_corpus_names,
)
from pipeline.analysis.frames import select_needed_columns_sql as select_sql
from pipeline.errors import UsageError
from pipeline.lake.reader import LakeReader
from pipeline.progress import Progress

MAX_BATCH_ROWS = 20_000
"""Largest number of rows in a batch, which take about 40 MB with four groups; the findings take several times as much.
A model with more rows is a batch of its own."""
COUNT_SQL = "SELECT model, corpus, corpus_sha256, recipe, count(*) AS rows FROM layers GROUP BY ALL"


class ModelRows:
    """Loader of the rows of a lake by model."""

    def __init__(self, lake: LakeReader) -> None:
        self._lake = lake
        self.counts = lake.query_frame(COUNT_SQL)
        """Number of `rows` per model, corpus, digest of the corpus, and recipe."""
        self._shared_names = shared_corpus_names(self.counts)
        self._groups, self._audits = load_group_counts(lake.uri), load_audit_states(lake)
        self._records = load_record_keys(lake.uri)

    @property
    def models(self) -> list[str]:
        return self.counts["model"].unique().sort().to_list()

    @property
    def corpora(self) -> list[str]:
        """Names of the corpora as findings print them: with a digest where several texts share a name."""
        return disambiguate_corpora(self.counts)["corpus"].unique().sort().to_list()

    def load(self, models: Collection[str]) -> pl.DataFrame:
        """Load the rows of these models, in the form in which `load_layer_rows` returns them."""
        frame = self._lake.query_frame(f"{select_sql()} WHERE {_is_one_of(models)}")
        return complete_rows(frame, self._groups, self._audits, self._records, self._shared_names)

    def batches(self, models: Collection[str] | None = None) -> Iterator[pl.DataFrame]:
        """Yield one frame per batch of these models (default: all), in order of model.

        There is at least one batch, which is empty if there are no models.
        """
        divided = self._divide(self.models if models is None else sorted(models))
        total = sum(map(len, divided))
        with Progress("Reading models and computing findings", total, "models") as progress:
            for names in divided:
                yield self.load(names)
                progress.advance(len(names))

    def _divide(self, models: list[str]) -> list[list[str]]:
        """Divide the models into consecutive lists with at most MAX_BATCH_ROWS rows each, or one model each."""
        rows = dict(self.counts.group_by("model").agg(pl.col("rows").sum()).iter_rows())
        divided: list[list[str]] = [[]]
        total = 0
        for model in models:
            total += rows.get(model, 0)
            if divided[-1] and total > MAX_BATCH_ROWS:
                divided.append([])
                total = rows.get(model, 0)
            divided[-1].append(model)
        return divided


def match_names(asked: str, known: Collection[str], glob: str) -> list[str]:
    """Return the names that match a glob.

    Args:
        asked: option that was given, for the error message: `--models` or `--corpus`.

    Raises:
        UsageError: no name matches.
    """
    if found := [name for name in known if fnmatchcase(name, glob)]:
        return found
    available = f"which has {', '.join(known)}" if known else "which is empty"
    do = "Use one of these names or a glob such as '*'" if known else "Measure a model first: shapelake run"
    raise UsageError(f"{asked} {glob!r}", f"no match in this lake, {available}", do)


def copy_texts(frame: pl.DataFrame) -> pl.DataFrame:
    """Return a copy of a frame that shares no memory with it.

    A selection of rows that is kept beyond its batch would otherwise keep all texts of the batch in memory.
    """
    return pl.DataFrame(frame.to_arrow())


def _is_one_of(models: Collection[str]) -> str:
    """Return the SQL condition that a row is of one of these models.

    It includes a range of names, since a reader can skip files and row groups only by ranges.
    """
    if not models:
        return "false"
    quoted = ["'" + model.replace("'", "''") + "'" for model in sorted(models)]
    return f"model BETWEEN {quoted[0]} AND {quoted[-1]} AND model IN ({', '.join(quoted)})"
