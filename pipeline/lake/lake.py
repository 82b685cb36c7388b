"""The lake: committed cells, labels, recipes, attempts, tombstones and runs. It is the only state there is."""

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
from pipeline.lake.labels import LabelRecords
from pipeline.lake.layout import (
    ATTEMPTS_PREFIX,
    AUDITS_PREFIX,
    CELLS_PREFIX,
    COLUMNS_KEY,
    QUARANTINE_PREFIX,
    RECIPES_PREFIX,
    RUNS_PREFIX,
    TIMESTAMP_FORMAT,
    list_parsed,
)
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
    """A lake at a folder or URI. One that does not exist reads as empty; the first write creates it."""

    def __init__(self, uri: str | Path) -> None:
        self.store = open_store(uri)
        self.uri = self.store.uri
        self._labels = LabelRecords(self.store)

    @classmethod
    def existing(cls, uri: str | Path) -> "Lake":
        """The lake at `uri` for one who only reads: a folder that is not there is a mistyped one.

        Raises:
            UsageError: there is no such folder.
        """
        lake = cls(uri)
        if not lake.store.exists():
            raise UsageError(f"lake {uri}", "no such folder", "Name the folder that `run` was given")
        return lake

    # cells

    def cell_files(self) -> dict[str, str]:
        """Key of the file of each committed cell, by cell id; by listing alone.

        Two labels of equal content under two models may, in a race of two runs, have left one file each:
        their numbers are equal, and the first by name stands for both.
        """
        files: dict[str, str] = {}
        for key, name in list_parsed(self.store, CELLS_PREFIX):
            files.setdefault(name["cell"], key)
        return files

    def committed_cell_ids(self) -> set[str]:
        """Ids of the committed cells, of all models: equal content under another name is committed too."""
        return set(self.cell_files())

    def commit(self, cell_id: str, model_key: str, table: "pa.Table") -> bool:
        """Write a cell's rows once. False: another writer was first, which is as good."""
        from pipeline.lake.schema import encode_parquet  # pyarrow loads only where rows are written

        if set(table.column("cell_id").to_pylist()) != {cell_id}:
            raise ValueError(f"rows of another cell than {cell_id}")
        self._describe_columns()
        return self.store.put_new(f"{CELLS_PREFIX}/model_key={model_key}/{cell_id}.parquet", encode_parquet(table))

    def _describe_columns(self) -> None:
        """Keep units and meanings beside the data, for readers without this code; columns are only ever added."""
        if self.store.put_new(COLUMNS_KEY, read_csv_bytes()):
            return
        if len(self.store.get(COLUMNS_KEY).splitlines()) < len(all_columns()) + 1:
            self.store.put_or_replace(COLUMNS_KEY, read_csv_bytes())

    # labels

    def record_labels(self, checkpoints: Iterable[Checkpoint]) -> int:
        """Write a record per label whose newest record does not already say the same, all in one file; how many."""
        return self._labels.write_changed(checkpoints)

    def labels(self) -> list[ResolvedLabel]:
        """Every (label, content) ever seen, each with the first label of equal weights and whether it is superseded.

        Labels of a renamed repo have its new name.
        """
        now = {audit.formerly: audit.model for audit in self.audits() if audit.formerly}
        return resolve_labels(_renamed(label, now) for label in self._labels.read_all())

    def encode_label_bundle(self) -> bytes:
        """Every label record as the snapshot keeps them."""
        return self._labels.encode_bundle()

    # audits

    def record_audit(self, audit: Audit) -> bool:
        """Keep an audit unless the newest of its model says the same."""
        model = digest_json(audit.model, bits=64)
        newest = self._newest_audits().get(model)
        if newest and newest[1]["said"] == audit.digest_without_time:
            return False
        return self.store.put_new(
            f"{AUDITS_PREFIX}/{model}-{audit.seen_at:{TIMESTAMP_FORMAT}}-{audit.digest_without_time}.json", _json(audit)
        )

    def audits(self) -> list[Audit]:
        """The newest audit of each model."""
        return [self._read(Audit, key) for key, _ in self._newest_audits().values()]

    def _newest_audits(self) -> dict[str, tuple[str, re.Match[str]]]:
        """By the digest of the model's name; the names sort by time."""
        return {name["model"]: (key, name) for key, name in list_parsed(self.store, AUDITS_PREFIX)}

    # recipes

    def check_recipe(self, recipe: Recipe) -> None:
        """Refuse a recipe that differs from the one this lake knows under the same `name@version`."""
        key = f"{RECIPES_PREFIX}/{recipe.label}.json"
        if key not in self.store.list(RECIPES_PREFIX):
            return
        fields = type(recipe).model_fields
        defaults = {name: field.default for name, field in fields.items() if not field.is_required()}
        old, new = defaults | json.loads(self.store.get(key)), recipe.model_dump(mode="json")
        if changed := [name for name in old | new if old.get(name) != new.get(name)]:
            raise RecipeDriftError(
                f"recipe {recipe.label}",
                "changed since this lake first used it: "
                + ", ".join(f"{name} {old.get(name)} -> {new.get(name)}" for name in changed),
                f"Give it version {recipe.version + 1}, or undo the change",
            )

    def record_recipe(self, recipe: Recipe) -> None:
        """Keep the recipe as this lake's meaning of its `name@version`; RecipeDriftError if there is another."""
        self.store.put_new(f"{RECIPES_PREFIX}/{recipe.label}.json", _json(recipe))
        self.check_recipe(recipe)

    # attempts and quarantine

    def record_attempt(self, failure: Failure) -> None:
        """Add one failed attempt; committed cells need no record."""
        name = f"{failure.cell_id}.{failure.error_class}.{uuid4().hex[:8]}.json"
        self.store.put_new(f"{ATTEMPTS_PREFIX}/{name}", _json(failure))

    def failure_counts(self) -> dict[str, Counter[str]]:
        """How often each cell failed, by class; by listing alone."""
        strikes: dict[str, Counter[str]] = {}
        for _, name in list_parsed(self.store, ATTEMPTS_PREFIX):
            strikes.setdefault(name["cell"], Counter())[name["error_class"]] += 1
        return strikes

    def failures(self, cell_ids: set[str]) -> list[Failure]:
        """Every failed attempt at these cells, oldest first."""
        keys = [key for key, name in list_parsed(self.store, ATTEMPTS_PREFIX) if name["cell"] in cell_ids]
        return sorted((self._read(Failure, key) for key in keys), key=lambda failure: failure.when)

    def quarantine(self, record: Tombstone | Failure) -> None:
        """Hide a committed cell, or stop trying one after its last failure."""
        tombstone = Tombstone.from_failure(record) if isinstance(record, Failure) else record
        self.store.put_or_replace(f"{QUARANTINE_PREFIX}/{tombstone.cell_id}.json", _json(tombstone))

    def quarantined_cell_ids(self) -> set[str]:
        """Ids of the cells with a tombstone; by listing alone."""
        return {name["cell"] for _, name in list_parsed(self.store, QUARANTINE_PREFIX)}

    def tombstones(self) -> list[Tombstone]:
        return [self._read(Tombstone, key) for key, _ in list_parsed(self.store, QUARANTINE_PREFIX)]

    def release(self, cell_id: str) -> bool:
        """Take the tombstone away; False where there was none."""
        return self.store.delete(f"{QUARANTINE_PREFIX}/{cell_id}.json")

    # runs

    def begin_run(self, run_id: str, plan: Mapping[str, Any]) -> None:
        """Open a run: write its plan, and clear away what killed writers left."""
        self.store.remove_stale_staging()
        self.store.put_new(f"{RUNS_PREFIX}/{run_id}/plan.json", json.dumps(plan).encode())

    def heartbeat(self, run_id: str, progress: Mapping[str, Any]) -> None:
        """Replace the run's progress; `run_id` and `when` are added."""
        record = {**progress, "run_id": run_id, "when": utc_now().isoformat()}
        self.store.put_or_replace(f"{RUNS_PREFIX}/{run_id}/progress.json", json.dumps(record).encode())

    def runs(self) -> list[dict[str, Any]]:
        """The last progress of every run, oldest heartbeat first."""
        return sorted((json.loads(self.store.get(key)) for key in self._progress_keys()), key=lambda run: run["when"])

    def active_runs(self, within_s: float) -> list[str]:
        """Ids of the runs, of the last few begun, that have said something so lately and not that they have ended."""
        since, found = utc_now() - timedelta(seconds=within_s), []
        for key in self._progress_keys()[-MAX_RECENT_RUNS:]:
            with suppress(LakeError, ValueError, KeyError):  # what cannot be read keeps nobody from working
                run = json.loads(self.store.get(key))
                found += [run["run_id"]] if not run["ended"] and datetime.fromisoformat(run["when"]) > since else []
        return found

    def _progress_keys(self) -> list[str]:
        """Keys, in the order in which the runs began."""
        return sorted(key for key in self.store.list(RUNS_PREFIX) if key.endswith("/progress.json"))

    def _read(self, noun: type[Record], key: str) -> Record:
        try:
            return noun.model_validate_json(self.store.get(key))
        except ValidationError as error:
            found = f"not a {noun.__name__.lower()} record ({error.errors()[0]['msg']})"
            raise LakeError(f"read {key} of the lake {self.uri}", found, "Move the file away") from error


def _renamed(label: Label, now: Mapping[str, str]) -> Label:
    return label.model_copy(update={"model": now[label.model]}) if label.model in now else label


def _json(noun: StrictModel) -> bytes:
    return canonical_json(noun.model_dump(mode="json")).encode()
