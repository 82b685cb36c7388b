"""A lake with a file of every kind, damage of any of them, and the operations that must survive it."""

import json
import random
import resource
import shutil
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from pipeline.columns import column_names
from pipeline.errors import ShapelakeError
from pipeline.lake import Audit, Lake, open_lake
from pipeline.lake.cell_records import load_cell_records
from pipeline.lake.leases import acquire_lease
from pipeline.lake.records import Label, utc_now
from pipeline.lake.snapshot import collect_garbage, compact
from pipeline.lake.status import lake_status
from pipeline.lake.verify import Problem, verify_lake
from pipeline.lake.views import LABEL_DECIDED_COLUMNS
from pipeline.strict_model import canonical_json
from pipeline.sweep.plan import make_plan
from tests.support import recorded_clouds
from tests.support import stub_checkpoints as stub
from tests.support.stub_runs import go

MAX_SECONDS, MAX_GROWTH_MIB = 20, 500
KINDS = {
    "cell": "cells/v1/*/*.parquet",
    "label": "labels/v2/*.json",
    "v1 label": "labels/v1/*/*.json",
    "audit": "audits/v1/*.json",
    "recipe": "recipes/*.json",
    "attempt": "attempts/v1/*.json",
    "tombstone": "quarantine/*.json",
    "plan": "runs/*/plan.json",
    "progress": "runs/*/progress.json",
    "lease": "leases/v1/*",
    "alert": "alerts/v1/fired/*.json",
    "identity": "lake.json",
    "pointer": "LATEST",
    "columns": "columns.csv",
    "manifest": "snapshots/v3/*/manifest.json",
    "snapshot cells": "snapshots/v3/*/cells.parquet",
    "snapshot labels": "snapshots/v3/*/labels.json",
    "snapshot rows": "snapshots/v3/*/layers-*.parquet",
    "similarity records": "similarity/v1/*/*.parquet",
}
"""Pattern of the newest file of each kind."""
WITH_DIGEST = {
    *("cell", "label", "v1 label", "audit", "pointer", "manifest"),
    *("snapshot cells", "snapshot labels", "snapshot rows", "similarity records"),
}
"""Kinds of which `verify` detects any changed byte."""
WRONG_TYPES = ("[]", "{}", "null", "1", '"x"', "[[]]", '{"id": []}', "[{}]", "1e999", "-" + "9" * 5000, "true")
DEEP = ('{"a":' * 100_000 + "1" + "}" * 100_000, "[" * 100_000 + "]" * 100_000)


def make_lake(root: Path) -> Lake:
    """Make a lake with a file of every kind; half of its cells are only in files of their own."""
    history = stub.history(root / "runs", [1, 2, 3], faults={3: "permanent"})
    lake = Lake(root / "lake")
    go(history, lake)
    with _hour_ago():
        assert compact(lake)
    stub.history(root / "runs", [4, 5])
    go(history, lake)
    assert compact(lake)
    stub.history(root / "runs", [6, 7])
    go(history, lake)
    label = Label.from_checkpoint(lake_point(lake), utc_now())
    lake.store.put_new(v1_label_key(label), canonical_json(label.model_dump(mode="json")).encode())
    lake.record_audit(Audit(model=label.model, family=None, formerly="lab/old", revisions=()))
    assert acquire_lease(lake, "a" * 32, "run-1") == ""
    lake.store.put_new("alerts/v1/fired/x.json", b'{"id":"x"}')
    recorded_clouds.add_records(lake.uri)
    assert verify_lake(lake) == []
    return lake


def lake_point(lake: Lake) -> Any:
    from tests.support import lake_rows

    return lake_rows.checkpoint(1, model="lab/v1")


def v1_label_key(label: Label) -> str:
    name = f"{label.seen_at:%Y%m%dT%H%M%S.%fZ}-{label.name_digest}-{label.digest_without_time}"
    return f"labels/v1/model_key=lab--v1/{name}.json"


@contextmanager
def _hour_ago() -> Iterator[None]:
    from pipeline.lake import snapshot

    now = snapshot.utc_now
    snapshot.utc_now = lambda: now() - timedelta(hours=1)
    try:
        yield
    finally:
        snapshot.utc_now = now


def key_of_kind(lake: Lake, kind: str) -> str:
    """Return the key of the newest file of a kind."""
    root = Path(lake.uri)
    paths = [path for path in root.glob(KINDS[kind]) if path.is_file()]
    newest = max(paths, key=lambda path: (path.stat().st_mtime_ns, str(path)))
    return newest.relative_to(root).as_posix()


Mutation = Callable[[bytes, list[bytes], random.Random], bytes]


def _flip(data: bytes, _: list[bytes], rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _i in range(rng.choice([1, 1, 1, 4])):
        changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _truncate(data: bytes, _: list[bytes], rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


def _insert(data: bytes, _: list[bytes], rng: random.Random) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.randbytes(rng.randint(1, 16)) + data[at + rng.choice([0, 0, 8]) :]


def _swap(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    return rng.choice(others)


def _wrong_type(data: bytes, _: list[bytes], rng: random.Random) -> bytes:
    return rng.choice(WRONG_TYPES).encode()


VALUES = (None, True, 0, -1, 2**63, 10**40, 1e308, "", "x", [], {}, [None], {"a": 1}, "0001-01-01T00:00:00")
TIMES = ("9999-12-31T23:59:59.999999Z", "0001-01-01T00:00:00+14:00", "2026-01-01T00:00:00", "2026-01-01", 0, 1e20)


def _wrong_value(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    """Replace, add or remove one field of one JSON object; other content gets a changed byte."""
    try:
        found = json.loads(data)
    except ValueError:
        return _flip(data, others, rng)
    objects = list(_objects(found))
    if not objects:
        return b"{}"
    target = rng.choice(objects)
    name = rng.choice([*target, "extra"])
    times = TIMES if name in ("seen_at", "when", "written_at", "indexed_since") else ()
    target[name] = rng.choice((*VALUES, *times, *times))
    if rng.random() < 0.1:
        del target[name]
    return json.dumps(found).encode()


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict) and value:
        yield value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _objects(item)


MUTATIONS: dict[str, Mutation] = {
    "flip": _flip,
    "truncate": _truncate,
    "insert": _insert,
    "swap": _swap,
    "value": _wrong_value,
    "type": _wrong_type,
    "empty": lambda *_: b"",
    "deep": lambda data, others, rng: rng.choice(DEEP).encode(),
    "not UTF-8": lambda data, others, rng: b'{"model": "\xff\xfe"}',
}
ALWAYS_FOUND = {"empty", "deep", "not UTF-8"}
"""Mutations that `verify` detects in every kind."""


class Ground:
    """The answers of an intact lake, and a copy of it to damage."""

    def __init__(self, root: Path) -> None:
        self.history = root / "runs"
        self.sound = make_lake(root)
        self.contents = {k: self.sound.store.get(key_of_kind(self.sound, k)) for k in KINDS}
        self.rows, self.records = layers(self.sound), similarity_records(self.sound)
        self.root = root / "copy" / "lake"

    def copy(self) -> Lake:
        shutil.rmtree(self.root, ignore_errors=True)
        shutil.copytree(self.sound.uri, self.root)
        return Lake(self.root)

    def check(self, lake: Lake, key: str, kind: str, is_upkeep: bool = True) -> list[Problem]:
        """Run every operation, `compact` and `gc` only if `is_upkeep`; return the problems that `verify` reports."""
        with limited():
            problems = verify_lake(lake)
            self._check_rows(attempt(lambda: layers(Lake(lake.uri))), key, kind)
            self._check_records(attempt(lambda: similarity_records(Lake(lake.uri))), key)
            attempt(lambda: open_lake(lake.uri).query_frame("select count(*) from cells"))
            attempt(lambda: lake_status(Lake(lake.uri)))
            attempt(lambda: make_plan(stub.sweep(self.history), Lake(lake.uri)))
            if not is_upkeep:
                return problems
            attempt(lambda: compact(Lake(lake.uri)))
            attempt(lambda: collect_garbage(Lake(lake.uri), timedelta(minutes=1), dry_run=False))
            self._check_rows(attempt(lambda: layers(Lake(lake.uri))), key, kind)
        return problems

    def _check_rows(self, found: Any, key: str, kind: str) -> None:
        """The rows of other cells are unchanged; those of the damaged one are unchanged or absent."""
        if found is None or kind == "snapshot rows":  # its digest is checked by `verify` and `compact` only
            return
        by_label = [name for name in LABEL_DECIDED_COLUMNS if name in found.columns and kind == "audit"]
        wanted = self.rows.drop(by_label)
        if kind == "cell" and found.height < self.rows.height:
            wanted = wanted.filter(wanted["cell_id"] != Path(key).stem)
        assert found.drop(by_label).equals(wanted), f"other rows after damage to {key}"

    def _check_records(self, found: dict[str, bytes] | None, key: str) -> None:
        """The similarity records of other files are unchanged; those of the damaged one are unchanged or absent."""
        wanted = self.records if found is None or key in found else {k: v for k, v in self.records.items() if k != key}
        assert found in (None, wanted), f"other similarity records after damage to {key}"


def layers(lake: Lake) -> Any:
    columns = ", ".join(name for name in column_names() if name not in ("duplicate_of", "superseded"))
    return open_lake(lake.uri).query_frame(f"select {columns} from layers order by cell_id, layer")


def similarity_records(lake: Lake) -> dict[str, bytes]:
    """The factors and neighbours of every readable record of a lake, by key of the file."""
    cells = load_cell_records(lake, lake.record_files().values())
    return {
        key: b"".join(layer.neighbours.tobytes() + layer.vectors.tobytes() for layer in cell.layers.values())
        for key, cell in cells.items()
    }


def attempt(call: Callable[[], Any]) -> Any:
    """Return the result, or None for an error that the user can act on."""
    try:
        return call()
    except ShapelakeError:
        return None


@contextmanager
def limited() -> Iterator[None]:
    """Fail after MAX_SECONDS or if the peak memory grows by MAX_GROWTH_MIB."""

    def stop(*_: object) -> None:
        raise AssertionError(f"still running after {MAX_SECONDS} s")

    before, previous = _peak_mib(), signal.signal(signal.SIGALRM, stop)
    signal.alarm(MAX_SECONDS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)
    assert _peak_mib() - before < MAX_GROWTH_MIB, "the peak memory grew"


def _peak_mib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


def write_table(lake: Lake, cell_id: str, table: Any, **options: Any) -> str:
    """Replace the file of a cell by this table, without a checksum; return its key."""
    import pyarrow.parquet as pq

    key = lake.cell_files()[cell_id]
    pq.write_table(table.replace_schema_metadata(None), Path(lake.uri, key), **options)
    return key
