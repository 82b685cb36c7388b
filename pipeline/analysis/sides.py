"""Sides of a comparison, and the labels that name them.

A side is a run of a model or one of its checkpoints, on some corpora or on all. A label is `MODEL`, `MODEL@REVISION`,
or the name of a run: `MODEL · STAGE · RUN`, without what the run lacks. The kind of a layer stack may follow the model
or the revision, as findings print it: `MODEL · KIND · STAGE · RUN`. If a model has several runs (stages, seeds), a
label that names neither a revision nor a run raises an error that lists the runs.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import polars as pl

from pipeline.analysis.frames import NAME_SEPARATOR, RUN_COLUMNS, run_name, select_history_rows
from pipeline.analysis.model_batches import ModelRows, match_names
from pipeline.errors import UsageError
from pipeline.lake.reader import LakeReader
from pipeline.strict_model import suggest

MAX_LISTED_RUNS = 8
Run = tuple[str, str | None, str | None]
"""Model, stage and run."""


class Side(NamedTuple):
    """One of the two things that are compared."""

    model: str
    revision: str | None
    """Revision of the checkpoint; None for the whole history."""
    corpus: str | None = None
    """Name or glob of the corpora; None for every corpus that both sides have."""
    stage: str | None = None
    run: str | None = None
    kind: str | None = None
    """Kind of the layer stack; None for every stack of the model."""

    @property
    def label(self) -> str:
        """Label from which `Labels.parse` makes this side, without its corpus."""
        words = (self.model, self.kind, self.stage, self.run)
        if self.revision is not None:
            words = (f"{self.model}@{self.revision}", self.kind)
        return NAME_SEPARATOR.join(word for word in words if word is not None)

    def equals(self, other: "Side") -> bool:
        """Return True if both sides are the same, or one of them is a stack of the other."""
        same = self._replace(kind=None) == other._replace(kind=None)
        return same and (self.kind == other.kind or None in (self.kind, other.kind))

    def select_from(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Select the rows of the model of this side, and of its kind if it has one."""
        rows = frame.filter(pl.col("model") == self.model)
        return rows if self.kind is None else rows.filter(pl.col("kind") == self.kind)

    def __str__(self) -> str:
        return f"{self.label} on {self.corpus}" if self.corpus else self.label


class Labels:
    """Parser of labels, which knows the models and runs of a lake."""

    def __init__(self, reader: LakeReader, models: Sequence[str]) -> None:
        self._models = models
        frame = reader.query_frame(f"SELECT DISTINCT {', '.join(RUN_COLUMNS)}, kind FROM layers ORDER BY ALL")
        runs = frame.select(RUN_COLUMNS)
        self._runs: Mapping[str, Run] = dict(zip(runs.select(run_name()).to_series(), runs.rows(), strict=True))
        self._kinds: Mapping[str, list[str]] = dict(frame.group_by("model").agg(pl.col("kind").unique()).iter_rows())

    def parse(self, text: str) -> Side:
        """Return the side that a label names; it has a kind only if the label states it and the model has several.

        Raises:
            UsageError: the lake does not have the model.
        """
        known = text in self._models or text in self._runs
        if side := (None if known else self._find_stack(text)) or self._find(text):
            return side
        name = text.partition(NAME_SEPARATOR)[0]
        model = name.rpartition("@")[0] or name
        do = "Write MODEL, MODEL@REVISION, or a run as MODEL · KIND · STAGE · RUN without what it lacks"
        if model in self._models:
            raise UsageError(f"label {text!r}", f"model {model!r} has no such run", do)
        raise UsageError(f"model {model!r}", f"not in this lake{suggest(model, list(self._models))}", do)

    def _find_stack(self, text: str) -> Side | None:
        """Return the side that a label with a kind names; None if its second word is no kind of the model."""
        name, _, rest = text.partition(NAME_SEPARATOR)
        kind, _, rest = rest.partition(NAME_SEPARATOR)
        side = self._find(NAME_SEPARATOR.join(word for word in (name, rest) if word))
        if side is None or kind not in (kinds := self._kinds[side.model]):
            return None
        return side._replace(kind=kind if len(kinds) > 1 else None)

    def _find(self, text: str) -> Side | None:
        """Return the side that a label without a kind names; None if the lake does not have it."""
        if text in self._models:
            return Side(text, None)
        if text in self._runs:
            model, stage, run = self._runs[text]
            return Side(model, None, None, stage, run)
        model, found, revision = text.rpartition("@")
        if found and model in self._models:
            return Side(model, revision)
        return None


def match_corpora(rows: ModelRows, names: Sequence[str]) -> list[list[str]]:
    """Return, for each name or glob, the list of the corpora of the lake that it matches.

    Raises:
        UsageError: a name or glob matches no corpus.
    """
    known = rows.corpora
    return [[name] if name in known else match_names("--corpus", known, name) for name in names]


def select_side(frame: pl.DataFrame, side: Side, whole: bool) -> tuple[Side, pl.DataFrame]:
    """Select the rows of a side; return the side, completed with its stage and run, and the rows.

    For a single checkpoint, the returned side also has the revision.

    Args:
        whole: if true, a side without a revision stands for the whole history; if false, for its newest checkpoint.

    Raises:
        UsageError: the model has no such revision, or has several runs of which none is named.
    """
    rows = side.select_from(frame)
    if side.revision is not None:
        rows = _select_revision(rows, side)
        _, stage, run = rows.select(RUN_COLUMNS).row(0)
        return side._replace(stage=stage, run=run), rows
    rows = select_history_rows(rows) if whole else rows.filter(~pl.col("superseded").fill_null(False))
    _, stage, run = _choose_run(rows, side, whole)
    rows = rows.filter(pl.col("stage").eq_missing(stage), pl.col("run").eq_missing(run))
    if whole:
        return side._replace(stage=stage, run=run), rows
    newest = rows.sort("step", "revision", nulls_last=False)["revision"].to_list()[-1]
    return side._replace(revision=newest, stage=stage, run=run), rows.filter(revision=newest)


def has_several_steps(frame: pl.DataFrame, side: Side) -> bool:
    """Return True if a run that this side may stand for has several steps."""
    rows = select_history_rows(side.select_from(frame))
    counts = _count_steps(rows)
    named = (side.model, side.stage, side.run)
    return (max(counts.values(), default=0) if named[1:] == (None, None) else counts.get(named, 0)) > 1


def _choose_run(rows: pl.DataFrame, side: Side, whole: bool) -> Run:
    """Return the run that the side names or, if it names none, the only run of its model.

    Runs without a step, or with only one step if `whole`, are disregarded if there are others.

    Raises:
        UsageError: the side names no run, and there are several.
    """
    counts = _count_steps(rows)
    named: Run = (side.model, side.stage, side.run)
    enough = [run for run, steps in counts.items() if steps > int(whole)] or list(counts)
    if named in enough or named[1:] != (None, None):
        return named
    if len(enough) == 1:
        return enough[0]
    names = sorted(Side(model, None, None, stage, run).label for model, stage, run in enough)
    shown = ", ".join(names[:MAX_LISTED_RUNS]) + (" ..." if len(names) > MAX_LISTED_RUNS else "")
    do = "Name one of these runs, or a checkpoint: MODEL@REVISION"
    raise UsageError(f"model {side.model!r}", f"it has {len(names)} runs: {shown}", do)


def _count_steps(rows: pl.DataFrame) -> dict[Run, int]:
    """Return the number of different steps of each run; a checkpoint without a step does not count."""
    found = rows.group_by(RUN_COLUMNS).agg(pl.col("step").drop_nulls().n_unique().alias("steps"))
    return {(model, stage, run): steps for model, stage, run, steps in found.iter_rows()}


def _select_revision(rows: pl.DataFrame, side: Side) -> pl.DataFrame:
    current = rows.filter(~pl.col("superseded").fill_null(False))
    if side.revision in current["revision"]:
        return current.filter(revision=side.revision)
    known = current["revision"].unique().sort().to_list()
    near = suggest(side.revision or "", known)
    found = f"no such revision{near if len(known) < 20 or 'did you mean' in near else ''}"
    do = f"Write a revision that the lake has, such as {known[0]}"
    raise UsageError(f"{side.model}@{side.revision}", found, do)
