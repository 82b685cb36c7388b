"""The lake, with committed cells, labels, recipes, attempts, tombstones and runs. A sweep has no other state."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from pipeline.columns import all_columns, read_csv_bytes
from pipeline.errors import LakeError, RecipeDriftError, UsageError
from pipeline.lake import layout, run_records
from pipeline.lake.identity import LakeIdentity
from pipeline.lake.index_records import find_indexed_cells, record_in_index
from pipeline.lake.labels import LabelRecords
from pipeline.lake.layout import RECIPES_PREFIX, list_parsed
from pipeline.lake.left_out import leave_out
from pipeline.lake.open_store import open_store
from pipeline.lake.record_files import read_object, read_records
from pipeline.lake.records import Audit, Failure, Label, ResolvedLabel, Tombstone, resolve_labels
from pipeline.lake.store import STAGING
from pipeline.recipe import Recipe
from pipeline.spec import Checkpoint
from pipeline.strict_model import StrictModel, canonical_json, digest_json

if TYPE_CHECKING:
    import pyarrow as pa

MAX_LISTED = 3
"""Largest number of names that an error message lists from a folder that is not a lake; further names are counted."""


class Lake:
    """Lake at a folder or URI. A lake that does not exist reads as empty; the first write creates it.

    Args:
        lake_id: id that the lake must still have at each write of a run; None = not checked.
    """

    def __init__(self, uri: str | Path, lake_id: str | None = None) -> None:
        self.store = open_store(uri)
        self.uri = self.store.uri
        self.identity = LakeIdentity(self.store, lake_id)
        self._labels = LabelRecords(self.store)
        self._columns_described = False

    @classmethod
    def existing(cls, uri: str | Path) -> "Lake":
        """Open an existing lake at `uri` for reading.

        Raises:
            UsageError: there is no lake at `uri`, most likely because of a typing error.
        """
        lake = cls(uri)
        if reason := lake.why_absent():
            raise UsageError(f"lake {uri}", reason, "Name the lake that `shapelake run --lake` wrote")
        return lake

    @classmethod
    def writable(cls, uri: str | Path) -> "Lake":
        """Open the lake at `uri`, or a new one in a missing or empty folder; hidden files do not count.

        Raises:
            UsageError: the folder has other files and no lake.
        """
        lake = cls(uri)
        names = lake.store.top_names() or set()
        is_taken = any(not name.startswith(".") for name in names - {STAGING, "lost+found"})
        if is_taken and (reason := lake.why_absent()):
            raise UsageError(f"lake {uri}", reason, f"Name a folder for the lake alone: {str(uri).rstrip('/')}/lake")
        return lake

    def why_absent(self) -> str | None:
        """Return the reason why no lake exists at this URI; None if one exists."""
        names = self.store.top_names()
        if names is None:
            return "no such folder"
        if names & layout.LAKE_NAMES:
            return None
        others = sorted(names - {STAGING})
        more = f" and {len(others) - MAX_LISTED} more" if len(others) > MAX_LISTED else ""
        return f"no lake in this folder, which holds {', '.join(others[:MAX_LISTED])}{more}" if others else "empty"

    # cells

    def cell_files(self) -> dict[str, str]:
        """Map each committed cell id to the key of its file.

        In a folder, all names are listed. In an object store, where a request lists at most 1000 names, the snapshot's
        index is read and only the index records of newer cells are listed.
        """
        return find_indexed_cells(self.store) or self.list_cell_files()

    def list_cell_files(self) -> dict[str, str]:
        """Map each committed cell id to the key of its file, by listing every name.

        If two runs race on equal content under two model names, each may write a file. Both files have equal numbers,
        and the first key in sorted order counts.
        """
        files: dict[str, str] = {}
        for key, name in list_parsed(self.store, layout.CELLS_PREFIX):
            files.setdefault(name["cell"], key)
        return files

    def has_cell(self, cell_id: str, model_key: str) -> bool:
        """Return True if the cell is committed under this model; checks one key and lists nothing."""
        return self.store.has(layout.cell_key(model_key, cell_id))

    def committed_cell_ids(self) -> set[str]:
        """Return the ids of all committed cells, under whichever model name each was measured."""
        return set(self.cell_files())

    def commit(self, cell_id: str, model_key: str, table: "pa.Table") -> bool:
        """Commit a cell's rows; idempotent. Return False if the cell was committed before; its file then stays."""
        from pipeline.lake.schema import encode_parquet  # pyarrow loads only where rows are written

        if set(table.column("cell_id").to_pylist()) != {cell_id}:
            raise ValueError(f"the rows do not belong to cell {cell_id}")
        self.identity.require()
        self._describe_columns()
        created = self.store.put_new(layout.cell_key(model_key, cell_id), encode_parquet(table))
        record_in_index(self.store, cell_id, model_key)  # even if not created: its writer may have been killed
        return created

    def has_records(self, cell_id: str, model_key: str, size: str) -> bool:
        """Return True if the cell has records of `size` (a `Similarity.name`); checks one key and lists nothing."""
        return self.store.has(layout.similarity_key(model_key, cell_id, size))

    def record_files(self) -> dict[tuple[str, str], str]:
        """Map each (cell id, size) of similarity records to the key of its file; lists names and opens no file."""
        found = list_parsed(self.store, layout.SIMILARITY_PREFIX)
        return {(name["cell"], name["size"]): key for key, name in found}

    def _describe_columns(self) -> None:
        """Write `columns.csv`, with the units and meanings of the columns, for readers without this package. An
        existing file is replaced only if this version has more columns."""
        if self._columns_described:
            return
        created = self.store.put_new(layout.COLUMNS_KEY, read_csv_bytes())
        if not created and len(self.store.get(layout.COLUMNS_KEY).splitlines()) < len(all_columns()) + 1:
            self.store.put_or_replace(layout.COLUMNS_KEY, read_csv_bytes())
        self._columns_described = True

    # labels

    def record_labels(self, checkpoints: Iterable[Checkpoint]) -> int:
        """Write one file with a record for each label that changed; return the number of records.

        A label changed if it has no record yet, or if a field of its newest record differs from the checkpoint. If no
        label changed, no file is written.
        """
        self.identity.require()
        return self._labels.write_changed(checkpoints)

    def labels(self) -> list[ResolvedLabel]:
        """Return every (label, content) ever seen, each with its duplicate and superseded state; see `resolve_labels`.
        Labels of a renamed repo have its new name."""
        new_names = {audit.formerly: audit.model for audit in self.audits() if audit.formerly}
        return resolve_labels(_renamed(label, new_names) for label in self._labels.read_all())

    def encode_label_bundle(self) -> bytes:
        """Encode every label record for the snapshot."""
        return self._labels.encode_bundle()

    # audits

    def record_audit(self, audit: Audit) -> bool:
        """Write an audit; return False, and write nothing, if it equals the newest audit of its model."""
        model, digest = digest_json(audit.model, bits=64), audit.digest_without_time
        newest = self._newest_audits().get(model)
        if newest and newest[1]["digest"] == digest:
            return False
        name = f"{model}-{audit.seen_at:{layout.TIMESTAMP_FORMAT}}-{digest}.json"
        return self.store.put_new(f"{layout.AUDITS_PREFIX}/{name}", _json(audit))

    def audits(self) -> list[Audit]:
        """Return the newest audit of each model."""
        return read_records(self.store, Audit, (key for key, _ in self._newest_audits().values()))

    def _newest_audits(self) -> dict[str, tuple[str, re.Match[str]]]:
        """Map the digest of each model name to (key, parsed file name) of its newest audit. The newest is the last one
        listed, because names sort by time."""
        return {name["model"]: (key, name) for key, name in list_parsed(self.store, layout.AUDITS_PREFIX)}

    # recipes

    def check_recipe(self, recipe: Recipe) -> None:
        """Raise RecipeDriftError if the recipe differs from the one in the lake with the same `name@version`. A damaged
        record is skipped with a warning, which is safe: a different recipe has different cell ids."""
        key = f"{RECIPES_PREFIX}/{recipe.label}.json"
        if key not in self.store.list(RECIPES_PREFIX):
            return
        defaults = {name: field.default for name, field in type(recipe).model_fields.items() if not field.is_required()}
        try:
            stored = read_object(self.store, key)
        except LakeError as error:
            leave_out(self.uri, {key: error.found})
            return
        old, new = defaults | stored, recipe.model_dump(mode="json")
        if changed := [name for name in old | new if old.get(name) != new.get(name)]:
            changes = ", ".join(f"{name} {old.get(name)} -> {new.get(name)}" for name in changed)
            do = f"Give it version {recipe.version + 1}, or undo the change"
            raise RecipeDriftError(f"recipe {recipe.label}", f"changed since this lake first used it: {changes}", do)

    def record_recipe(self, recipe: Recipe) -> None:
        """Store the recipe under its `name@version`; raise RecipeDriftError if the lake has a different one."""
        self.store.put_new(f"{RECIPES_PREFIX}/{recipe.label}.json", _json(recipe))
        self.check_recipe(recipe)

    # attempts and quarantine

    def record_attempt(self, failure: Failure, confirmed: bool = True) -> str:
        """Add one failed attempt and return its key; a success needs no record, because its cell is committed.

        Args:
            confirmed: True if the attempt counts from now on; False if it counts only after `confirm_attempt`.
        """
        error_class = failure.error_class if confirmed else layout.UNCONFIRMED
        self.identity.require()
        key = f"{layout.ATTEMPTS_PREFIX}/{failure.cell_id}.{error_class}.{uuid4().hex[:8]}.json"
        self.store.put_new(key, _json(failure))
        return key

    def confirm_attempt(self, failure: Failure, key: str) -> None:
        """Confirm an attempt, which then counts. If the writer is killed midway, both records exist and one counts."""
        self.store.put_new(key.replace(f".{layout.UNCONFIRMED}.", f".{failure.error_class}."), _json(failure))
        self.store.delete(key)

    def failure_counts(self) -> dict[str, Counter[str]]:
        """Count the failed attempts of each cell by failure class; unconfirmed attempts are the class `unconfirmed`.

        Names are listed, and no file is opened.
        """
        counts: dict[str, Counter[str]] = {}
        for _, name in list_parsed(self.store, layout.ATTEMPTS_PREFIX):
            counts.setdefault(name["cell"], Counter())[name["error_class"]] += 1
        return counts

    def failures(self, cell_ids: set[str]) -> list[Failure]:
        """Return every failed attempt at these cells, oldest first."""
        keys = [key for key, name in list_parsed(self.store, layout.ATTEMPTS_PREFIX) if name["cell"] in cell_ids]
        return sorted(read_records(self.store, Failure, keys), key=lambda failure: failure.when)

    def quarantine(self, record: Tombstone | Failure) -> None:
        """Write the tombstone of a cell; a failure is first made into a tombstone.

        A tombstone hides a committed cell from readers, and stops further attempts at a failed one.
        """
        tombstone = Tombstone.from_failure(record) if isinstance(record, Failure) else record
        self.identity.require()
        self.store.put_or_replace(f"{layout.QUARANTINE_PREFIX}/{tombstone.cell_id}.json", _json(tombstone))

    def quarantined_cell_ids(self) -> set[str]:
        """Return the ids of the cells with a tombstone; lists names and opens no file."""
        return {name["cell"] for _, name in list_parsed(self.store, layout.QUARANTINE_PREFIX)}

    def tombstones(self) -> list[Tombstone]:
        return read_records(
            self.store, Tombstone, (key for key, _ in list_parsed(self.store, layout.QUARANTINE_PREFIX))
        )

    def release(self, cell_id: str) -> bool:
        """Remove the tombstone of a cell; return False if it has none."""
        return self.store.delete(f"{layout.QUARANTINE_PREFIX}/{cell_id}.json")

    # runs

    def begin_run(self, run_id: str, plan: Mapping[str, Any]) -> None:
        """Start a run: write its plan and remove stale staged files; all later writes require this lake's identity."""
        self.store.remove_stale_staging()
        self.identity.begin()
        run_records.write_plan(self.store, run_id, plan)

    def heartbeat(self, run_id: str, progress: Mapping[str, Any]) -> None:
        """Replace the progress record of a run with `progress`, to which `run_id` and the time (`when`) are added."""
        self.identity.require()
        run_records.write_heartbeat(self.store, run_id, progress)

    def runs(self) -> list[dict[str, Any]]:
        """Return the last progress record of every run, oldest heartbeat first."""
        return run_records.read_runs(self.store)

    def active_runs(self, within: timedelta) -> list[str]:
        """Return the ids of runs that have not ended and whose last heartbeat is younger than `within`.

        Only the runs that began last are looked at; see `run_records.active_runs`.
        """
        return run_records.active_runs(self.store, within)


def _renamed(label: Label, new_names: Mapping[str, str]) -> Label:
    return label.model_copy(update={"model": new_names[label.model]}) if label.model in new_names else label


def _json(record: StrictModel) -> bytes:
    return canonical_json(record.model_dump(mode="json")).encode()
