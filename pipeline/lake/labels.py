"""Label records of a lake, read from the snapshot and from the label files that the snapshot lacks.

A file `labels/v2/TIME-DIGEST.json` has all records that one call wrote. Lakes of earlier versions have one file per
record under `labels/v1/model_key=MODEL/`; both forms are read and are equivalent.
"""

import json
from collections.abc import Iterable, Iterator
from datetime import timedelta
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from pipeline.errors import LakeError
from pipeline.lake import manifest
from pipeline.lake.layout import LABELS_PREFIX, TIMESTAMP_FORMAT, V1_LABELS_PREFIX, list_parsed
from pipeline.lake.records import Label, utc_now
from pipeline.lake.store import Store
from pipeline.spec import Checkpoint
from pipeline.strict_model import canonical_json, digest_json

LabelsByFile = dict[str, list[Label]]
"""Maps the key of a label file to its records."""
LABEL_LIST_ADAPTER, LABEL_BUNDLE_ADAPTER = TypeAdapter(list[Label]), TypeAdapter(LabelsByFile)


class LabelRecords:
    """Label records of a lake. Files never change, so each file that the snapshot lacks is read once."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._read: LabelsByFile | None = None

    def read_all(self) -> list[Label]:
        """Return every record, file by file.

        Raises:
            LakeError: a file holds no label records.
        """
        return [label for labels in self._files().values() for label in labels]

    def write_changed(self, checkpoints: Iterable[Checkpoint]) -> int:
        """Write one file with a record for each label that changed; return the number of records.

        A label changed if it has no record yet, or if a field of its newest record differs from the checkpoint. If no
        label changed, no file is written.
        """
        newest = {label.name: label for label in sorted(self.read_all(), key=lambda label: label.seen_at)}
        changed = list(_changed_labels(checkpoints, newest))
        if changed:
            data = encode_labels(changed)
            stamp = max(label.seen_at for label in changed)
            self._store.put_new(f"{LABELS_PREFIX}/{stamp:{TIMESTAMP_FORMAT}}-{manifest.bytes_digest(data)}.json", data)
        return len(changed)

    def encode_bundle(self) -> bytes:
        """Encode the records of every file, for the snapshot."""
        return LABEL_BUNDLE_ADAPTER.dump_json(self._files())

    def _files(self) -> LabelsByFile:
        known = self._read_bundle() if self._read is None else self._read
        keys = [key for form in (V1_LABELS_PREFIX, LABELS_PREFIX) for key, _ in list_parsed(self._store, form)]
        loose = [key for key in keys if key not in known]
        read = dict(zip(loose, map(self._parse, loose, self._store.paths_or_bytes(loose)), strict=True))
        self._read = {key: known[key] if key in known else read[key] for key in keys}
        return self._read

    def _read_bundle(self) -> LabelsByFile:
        if (snapshot := manifest.latest_snapshot(self._store)) is None:
            return {}
        key = snapshot.file_key(manifest.LABEL_FILE)
        data = self._store.get(key)
        if manifest.bytes_digest(data) != snapshot.digests.get(manifest.LABEL_FILE):
            raise manifest.damaged_snapshot_error(self._store, key, "changed since it was written")
        try:
            return LABEL_BUNDLE_ADAPTER.validate_json(data)
        except ValidationError as error:
            found = f"not a bundle of label records ({error.errors()[0]['msg']})"
            raise manifest.damaged_snapshot_error(self._store, key, found) from error

    def _parse(self, key: str, source: Path | bytes) -> list[Label]:
        data = source if isinstance(source, bytes) else self._store.get(key)
        try:
            labels = parse_labels(key, data)
            found = None if is_label_file_unchanged(key, data) else "changed since it was written"
        except ValidationError as error:
            labels, found = [], f"not a label record ({error.errors()[0]['msg']})"
        if found:
            raise LakeError(f"read {key} of the lake {self._store.uri}", found, "Move the file out of the lake")
        return labels


def parse_labels(key: str, data: bytes) -> list[Label]:
    """Parse the label records of a file, one in v1 and a list in v2; raise ValidationError if the content is none."""
    if key.startswith(f"{V1_LABELS_PREFIX}/"):
        return [Label.model_validate_json(data)]
    return LABEL_LIST_ADAPTER.validate_json(data)


def is_label_file_unchanged(key: str, data: bytes) -> bool:
    """Return True if the content of a parseable label file matches the digest, and in v1 the time, in its name."""
    name = key.removesuffix(".json").rpartition("/")[2]
    if not key.startswith(f"{V1_LABELS_PREFIX}/"):
        return name.endswith(f"-{manifest.bytes_digest(data)}")
    # Uses the raw fields of the file, because another version may have written other fields.
    fields = {field: value for field, value in json.loads(data).items() if field != "seen_at"}
    stamp = f"{Label.model_validate_json(data).seen_at:{TIMESTAMP_FORMAT}}"
    return name.startswith(f"{stamp}-") and name.endswith(f"-{digest_json(fields, bits=64)}")


def encode_labels(labels: list[Label]) -> bytes:
    """Encode these records as the content of one file."""
    return canonical_json([label.model_dump(mode="json") for label in labels]).encode()


def _changed_labels(checkpoints: Iterable[Checkpoint], newest: dict[str, Label]) -> Iterator[Label]:
    """Yield each record to write, and enter it in `newest` as the newest record of its label."""
    for checkpoint in checkpoints:
        label = Label.from_checkpoint(checkpoint, utc_now())
        if known := newest.get(label.name):
            if known.digest_without_time == label.digest_without_time:
                continue
            # A record must be later than the one it corrects, even if the clock of this machine is behind.
            after = known.seen_at + timedelta(microseconds=1)
            label = label.model_copy(update={"seen_at": max(label.seen_at, after)})
        newest[label.name] = label
        yield label
