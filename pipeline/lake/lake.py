"""The lake: committed cells, labels, recipes, attempts, tombstones and runs. A sweep has no other state."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import uuid4

from pydantic import ValidationError

from pipeline.columns import all_columns, read_csv_bytes
from pipeline.errors import LakeError, RecipeDriftError, UsageError
from pipeline.lake import layout
from pipeline.lake.labels import LabelRecords
from pipeline.lake.layout import RECIPES_PREFIX, list_parsed
from pipeline.lake.open_store import open_store
from pipeline.lake.records import Audit, Failure, Label, ResolvedLabel, Tombstone, resolve_labels, utc_now
from pipeline.recipe import Recipe
from pipeline.spec import Checkpoint
from pipeline.strict_model import StrictModel, canonical_json, digest_json

if TYPE_CHECKING:
    import pyarrow as pa

Record = TypeVar("Record", bound=StrictModel)
MAX_RECENT_RUNS = 5


class Lake:
    """Lake at a folder or URI. A lake that does not exist reads as empty; the first write creates it."""

    def __init__(self, uri: str | Path) -> None:
        self.store = open_store(uri)
        self.uri = self.store.uri
        self._labels = LabelRecords(self.store)

    @classmethod
    def existing(cls, uri: str | Path) -> "Lake":
        """Open the lake at `uri` for reading only, where a missing folder is most likely a typing error.

        Raises:
            UsageError: the lake does not exist.
        """
        lake = cls(uri)
        if not lake.store.exists():
            raise UsageError(f"lake {uri}", "no such folder", "Name the lake that `shapelake run --lake` wrote")
        return lake

    # cells

    def cell_files(self) -> dict[str, str]:
        """Map each committed cell id to the key of its file; lists names and opens no file.

        Two labels of equal content under two models can leave one file each if two runs race. Their numbers are equal,
        and the first file by name counts.
        """
        files: dict[str, str] = {}
        for key, name in list_parsed(self.store, layout.CELLS_PREFIX):
            files.setdefault(name["cell"], key)
        return files

    def committed_cell_ids(self) -> set[str]:
        """Return the ids of the committed cells of all models: equal content under another name is committed too."""
        return set(self.cell_files())

    def commit(self, cell_id: str, model_key: str, table: "pa.Table") -> bool:
        """Write a cell's rows once. Return False if they were committed before, which is equally good."""
        from pipeline.lake.schema import encode_parquet  # pyarrow loads only where rows are written

        if set(table.column("cell_id").to_pylist()) != {cell_id}:
            raise ValueError(f"the rows are not those of cell {cell_id}")
        self._describe_columns()
        return self.store.put_new(layout.cell_key(model_key, cell_id), encode_parquet(table))

    def _describe_columns(self) -> None:
        """Store units and meanings beside the data, for readers without this package; columns are only added."""
        if self.store.put_new(layout.COLUMNS_KEY, read_csv_bytes()):
            return
        if len(self.store.get(layout.COLUMNS_KEY).splitlines()) < len(all_columns()) + 1:
            self.store.put_or_replace(layout.COLUMNS_KEY, read_csv_bytes())

    # labels

    def record_labels(self, checkpoints: Iterable[Checkpoint]) -> int:
        """Write one file with a record per label whose newest record differs; return the number of records."""
        return self._labels.write_changed(checkpoints)

    def labels(self) -> list[ResolvedLabel]:
        """Return every (label, content) ever seen, with the first label of equal weights and whether it is superseded.

        Labels of a renamed repo have its new name.
        """
        new_names = {audit.formerly: audit.model for audit in self.audits() if audit.formerly}
        return resolve_labels(_renamed(label, new_names) for label in self._labels.read_all())

    def encode_label_bundle(self) -> bytes:
        """Encode every label record for the snapshot."""
        return self._labels.encode_bundle()

    # audits

    def record_audit(self, audit: Audit) -> bool:
        """Write an audit unless it equals the newest audit of its model."""
        model, digest = digest_json(audit.model, bits=64), audit.digest_without_time
        newest = self._newest_audits().get(model)
        if newest and newest[1]["digest"] == digest:
            return False
        name = f"{model}-{audit.seen_at:{layout.TIMESTAMP_FORMAT}}-{digest}.json"
        return self.store.put_new(f"{layout.AUDITS_PREFIX}/{name}", _json(audit))

    def audits(self) -> list[Audit]:
        """Return the newest audit of each model."""
        return [self._read(Audit, key) for key, _ in self._newest_audits().values()]

    def _newest_audits(self) -> dict[str, tuple[str, re.Match[str]]]:
        """Map the digest of each model's name to its newest audit; file names sort by time."""
        return {name["model"]: (key, name) for key, name in list_parsed(self.store, layout.AUDITS_PREFIX)}

    # recipes

    def check_recipe(self, recipe: Recipe) -> None:
        """Raise RecipeDriftError if the recipe differs from the one in the lake with the same `name@version`."""
        key = f"{RECIPES_PREFIX}/{recipe.label}.json"
        if key not in self.store.list(RECIPES_PREFIX):
            return
        defaults = {name: field.default for name, field in type(recipe).model_fields.items() if not field.is_required()}
        old, new = defaults | json.loads(self.store.get(key)), recipe.model_dump(mode="json")
        if changed := [name for name in old | new if old.get(name) != new.get(name)]:
            changes = ", ".join(f"{name} {old.get(name)} -> {new.get(name)}" for name in changed)
            do = f"Give it version {recipe.version + 1}, or undo the change"
            raise RecipeDriftError(f"recipe {recipe.label}", f"changed since this lake first used it: {changes}", do)

    def record_recipe(self, recipe: Recipe) -> None:
        """Store the recipe under its `name@version`; raise RecipeDriftError if the lake has a different one."""
        self.store.put_new(f"{RECIPES_PREFIX}/{recipe.label}.json", _json(recipe))
        self.check_recipe(recipe)

    # attempts and quarantine

    def record_attempt(self, failure: Failure) -> None:
        """Add one failed attempt; a success needs no record, because its cell is committed."""
        name = f"{failure.cell_id}.{failure.error_class}.{uuid4().hex[:8]}.json"
        self.store.put_new(f"{layout.ATTEMPTS_PREFIX}/{name}", _json(failure))

    def failure_counts(self) -> dict[str, Counter[str]]:
        """Count the failed attempts of each cell by error class; lists names and opens no file."""
        counts: dict[str, Counter[str]] = {}
        for _, name in list_parsed(self.store, layout.ATTEMPTS_PREFIX):
            counts.setdefault(name["cell"], Counter())[name["error_class"]] += 1
        return counts

    def failures(self, cell_ids: set[str]) -> list[Failure]:
        """Return every failed attempt at these cells, oldest first."""
        keys = [key for key, name in list_parsed(self.store, layout.ATTEMPTS_PREFIX) if name["cell"] in cell_ids]
        return sorted((self._read(Failure, key) for key in keys), key=lambda failure: failure.when)

    def quarantine(self, record: Tombstone | Failure) -> None:
        """Write a tombstone: it hides a committed cell, or stops further attempts after the last failure."""
        tombstone = Tombstone.from_failure(record) if isinstance(record, Failure) else record
        self.store.put_or_replace(f"{layout.QUARANTINE_PREFIX}/{tombstone.cell_id}.json", _json(tombstone))

    def quarantined_cell_ids(self) -> set[str]:
        """Return the ids of the cells with a tombstone; lists names and opens no file."""
        return {name["cell"] for _, name in list_parsed(self.store, layout.QUARANTINE_PREFIX)}

    def tombstones(self) -> list[Tombstone]:
        return [self._read(Tombstone, key) for key, _ in list_parsed(self.store, layout.QUARANTINE_PREFIX)]

    def release(self, cell_id: str) -> bool:
        """Remove the tombstone; return False if there is none."""
        return self.store.delete(f"{layout.QUARANTINE_PREFIX}/{cell_id}.json")

    # runs

    def begin_run(self, run_id: str, plan: Mapping[str, Any]) -> None:
        """Start a run: write its plan and remove stale staged files."""
        self.store.remove_stale_staging()
        self.store.put_new(f"{layout.RUNS_PREFIX}/{run_id}/plan.json", json.dumps(plan).encode())

    def heartbeat(self, run_id: str, progress: Mapping[str, Any]) -> None:
        """Replace the run's progress; `run_id` and `when` are added."""
        record = {**progress, "run_id": run_id, "when": utc_now().isoformat()}
        self.store.put_or_replace(f"{layout.RUNS_PREFIX}/{run_id}/progress.json", json.dumps(record).encode())

    def runs(self) -> list[dict[str, Any]]:
        """Return the last progress record of every run, oldest heartbeat first."""
        return sorted((json.loads(self.store.get(key)) for key in self._progress_keys()), key=lambda run: run["when"])

    def active_runs(self, within_s: float) -> list[str]:
        """Return the ids of unfinished runs with a heartbeat in the last `within_s` seconds.

        Only the `MAX_RECENT_RUNS` runs that began last are read.
        """
        since, active = utc_now() - timedelta(seconds=within_s), []
        for key in self._progress_keys()[-MAX_RECENT_RUNS:]:
            with suppress(LakeError, ValueError, KeyError):  # an unreadable record must not stop a new run
                run = json.loads(self.store.get(key))
                active += [run["run_id"]] if not run["ended"] and datetime.fromisoformat(run["when"]) > since else []
        return active

    def _progress_keys(self) -> list[str]:
        """Return the keys in the order in which the runs began, by which run ids sort."""
        return sorted(key for key in self.store.list(layout.RUNS_PREFIX) if key.endswith("/progress.json"))

    def _read(self, record_type: type[Record], key: str) -> Record:
        try:
            return record_type.model_validate_json(self.store.get(key))
        except ValidationError as error:
            found = f"not a valid {record_type.__name__.lower()} record ({error.errors()[0]['msg']})"
            raise LakeError(f"read {key} of the lake {self.uri}", found, "Move the file out of the lake") from error


def _renamed(label: Label, new_names: Mapping[str, str]) -> Label:
    return label.model_copy(update={"model": new_names[label.model]}) if label.model in new_names else label


def _json(record: StrictModel) -> bytes:
    return canonical_json(record.model_dump(mode="json")).encode()
