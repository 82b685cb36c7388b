"""State of a lake for `shapelake status`: committed cells per model, failures, tombstones and runs."""

from collections import Counter
from datetime import datetime
from typing import Any, NamedTuple

from pipeline.lake.lake import Lake
from pipeline.lake.records import Failure, Tombstone
from pipeline.lake.views import DIGEST_COLUMNS
from pipeline.strict_model import digest_json

STATUS_COLUMNS = ("corpus", "corpus_sha256", "recipe", "kind", "model", "revision", "step", "written_at")
Entry = dict[str, Any]
"""Maps names to values that describe one model, failure or tombstone."""


class LabelledCell(NamedTuple):
    """Committed cell under one of its labels."""

    cell_id: str
    model: str
    revision: str
    step: int | None
    corpus: str
    corpus_sha256: str | None
    recipe: str
    kind: str
    written_at: datetime
    seen_at: datetime
    """Time at which the label was first seen with the content of this cell."""

    @property
    def valid_since(self) -> datetime:
        return max(self.written_at, self.seen_at)

    @property
    def measurement_key(self) -> tuple[str | None, ...]:
        return self.model, self.revision, self.corpus, self.corpus_sha256, self.recipe, self.kind


def lake_status(lake: Lake) -> dict[str, Any]:
    """Return the state of the lake as plain values.

    - `lake`: URI of the lake.
    - `models`: one entry per model, with counts of checkpoints, cells and failures.
    - `failures`: one entry per cell that failed and is not committed, with its last failure and the command that
      reproduces it. Cells whose label was measured later, with other files or newer code, are left out.
    - `quarantined`: one entry per tombstone.
    - `runs`: the last progress record of each run.
    """
    tombstones = {tombstone.cell_id: tombstone for tombstone in lake.tombstones()}
    measured = _labelled_cells(lake)
    visible = [cell for cell in measured if cell.cell_id not in tombstones]
    failed = _unresolved_failures(lake, tombstones, visible)
    quarantined = [_tombstone_entry(tombstone, measured) for tombstone in tombstones.values()]
    models = sorted({cell.model for cell in measured} | {failure.model for failure in failed})
    counts = lake.failure_counts()
    recorded = {cell_id for cell_id, _ in lake.record_files()}
    return {
        "lake": lake.uri,
        "models": [_model(model, visible, failed, quarantined, recorded) for model in models],
        "failures": [_failure(f, counts.get(f.cell_id, Counter()), f.cell_id in tombstones) for f in failed],
        "quarantined": quarantined,
        "runs": lake.runs(),
    }


def _labelled_cells(lake: Lake) -> list[LabelledCell]:
    if not lake.cell_files():
        return []
    from pipeline.lake.cell_index import load_cells  # polars is loaded only if there are cells

    cells = load_cells(lake).select("cell_id", *DIGEST_COLUMNS, *STATUS_COLUMNS)
    labels: dict[str, list[tuple[str, str, int | None, datetime]]] = {}
    for label, first_seen, *_ in lake.labels():
        labels.setdefault(label.content, []).append((label.model, label.revision, label.step, first_seen))
    labelled = []
    for cell_id, *rest in cells.sort("cell_id").iter_rows():
        content, (corpus, sha, recipe, kind, *own, written_at) = digest_json(rest[:3]), rest[3:]
        for model, revision, step, seen in labels.get(content) or [(*own, written_at)]:
            labelled.append(LabelledCell(cell_id, model, revision, step, corpus, sha, recipe, kind, written_at, seen))
    return labelled


def _unresolved_failures(lake: Lake, tombstones: dict[str, Tombstone], visible: list[LabelledCell]) -> list[Failure]:
    """Return the last failure of each cell that is not committed, oldest first, unless its label was measured later."""
    committed = lake.committed_cell_ids()
    last = {id_: stone.failure for id_, stone in tombstones.items() if stone.failure and id_ not in committed}
    last |= {failure.cell_id: failure for failure in lake.failures(set(lake.failure_counts()) - committed)}
    since: dict[tuple[str | None, ...], datetime] = {}
    for cell in visible:
        since[cell.measurement_key] = max(cell.valid_since, since.get(cell.measurement_key, cell.valid_since))
    unresolved = [f for f in last.values() if f.measurement_key not in since or since[f.measurement_key] < f.when]
    return sorted(unresolved, key=lambda failure: failure.when)


def _model(
    model: str, visible: list[LabelledCell], failed: list[Failure], quarantined: list[Entry], recorded: set[str]
) -> Entry:
    cells = [cell for cell in visible if cell.model == model]
    ids = {entry["cell_id"] for entry in quarantined}
    return {
        "model": model,
        "checkpoints": len({cell.revision for cell in cells}),
        "cells": len({cell.cell_id for cell in cells}),
        "failed": sum(f.model == model and f.cell_id not in ids for f in failed),
        "quarantined": sum(entry["model"] == model for entry in quarantined),
        "newest_step": max((cell.step for cell in cells if cell.step is not None), default=None),
        "corpora": sorted({cell.corpus for cell in cells}),
        "recipes": sorted({cell.recipe for cell in cells}),
        "similarity": len({cell.cell_id for cell in cells} & recorded),
        "last_write": max((_utc(cell.written_at) for cell in cells), default=None),
    }


def _failure(failure: Failure, counts: Counter[str], quarantined: bool) -> Entry:
    return {
        "label": f"{failure.model}@{failure.revision}",
        **{name: getattr(failure, name) for name in ("corpus", "recipe", "kind", "cell_id")},
        "class": failure.error_class,
        **{name: getattr(failure, name) for name in ("message", "command", "run_id", "host")},
        "attempts": counts.total(),
        "quarantined": quarantined,
        "when": _utc(failure.when),
    }


def _tombstone_entry(tombstone: Tombstone, measured: list[LabelledCell]) -> Entry:
    cell = tombstone.failure or next((cell for cell in measured if cell.cell_id == tombstone.cell_id), None)
    return {
        "cell_id": tombstone.cell_id,
        "model": cell and cell.model,
        "label": cell and f"{cell.model}@{cell.revision}",
        "reason": tombstone.reason,
        "by": tombstone.by,
        "when": _utc(tombstone.when),
    }


def _utc(when: datetime) -> str:
    return f"{when:%Y-%m-%dT%H:%M:%SZ}"
