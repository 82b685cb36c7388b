"""Export of a lake as a dataset of the Hub: write a folder with rows, column meanings and a card; then upload it."""

import hashlib
import os
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import polars as pl
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from pipeline import output_paths
from pipeline.catalog.hub_http import call_with_retries
from pipeline.columns import read_csv_bytes
from pipeline.errors import UsageError
from pipeline.export.dataset_card import format_card
from pipeline.lake.lake import RECIPES_PREFIX, Lake
from pipeline.lake.reader import LakeReader
from pipeline.strict_model import digest_json

VIEWS = ("layers", "checkpoints")


class PreparedDataset(NamedTuple):
    """Dataset folder that is ready for upload."""

    folder: Path
    version: str
    """`v-` and 12 hex digits of the digest of the data, so that equal data have the same version at any time."""
    files_written: int
    """Number of files that were missing or had other content."""
    files: dict[str, int]
    """Size in bytes of each file of the dataset, by path in the folder. Only these are uploaded."""


def prepare_dataset(reader: LakeReader, dataset: str, folder: str | Path, licence: str) -> PreparedDataset:
    """Write the dataset to `folder`; a file that already has the right content is not rewritten.

    Args:
        dataset: `owner/name` on the Hub.
        licence: licence of the data by its Hub identifier, such as `cc-by-4.0`.

    Raises:
        UsageError: the lake has no rows, the name is not valid on the Hub, or the folder holds other files or cannot be
            written.
    """
    _check_dataset_name(dataset)
    asked = f"export of dataset {dataset} in"
    output_paths.require_writable_folder(asked, folder)
    frames = {view: reader.query_frame(f"FROM {view} ORDER BY ALL") for view in VIEWS}
    if frames["layers"].is_empty():
        do = f"Measure first: shapelake run SWEEP --lake {reader.uri}"
        raise UsageError(f"export of lake {reader.uri}", "it has no rows", do)
    files = {f"data/{view}.parquet": _parquet(frame) for view, frame in frames.items()} | _metadata_files(reader)
    folder = output_paths.require_own_folder(asked, folder, f"dataset {dataset}")
    version = f"v-{digest_json({name: hashlib.sha256(data).hexdigest() for name, data in files.items()})[:12]}"
    files["README.md"] = format_card(frames["layers"], dataset, version, licence).encode()
    written = sum(_write_if_changed(folder / name, data) for name, data in files.items())
    return PreparedDataset(folder, version, written, {name: len(data) for name, data in files.items()})


def _check_dataset_name(dataset: str) -> None:
    """Raise UsageError for a name that the Hub would refuse, or one without an owner."""
    try:
        validate_repo_id(dataset)
        found = "" if "/" in dataset else "it has no owner"
    except HFValidationError as error:
        found = " ".join(str(error).split()).rstrip(".")
    if found:
        raise UsageError(f"dataset {dataset!r}", found, "Use the form owner/name, e.g. my-lab/shapes")


def upload_dataset(prepared: PreparedDataset, dataset: str) -> str:
    """Upload the files of a prepared dataset as one commit, tagged with its version, and return its URL.

    A new dataset is private. Other files of the folder are not uploaded.

    Raises:
        UsageError: the Hub refuses the upload, or HF_HUB_OFFLINE is set.
        FetchError: the Hub does not answer.
    """
    return call_with_retries(f"upload of dataset {dataset}", lambda: _upload(prepared, dataset))


def _upload(prepared: PreparedDataset, dataset: str) -> str:
    """Run the upload; every step is idempotent, so a retry is safe."""
    api, kind, message = HfApi(), "dataset", f"Snapshot {prepared.version}"
    api.create_repo(dataset, repo_type=kind, private=True, exist_ok=True)
    added = [CommitOperationAdd(name, prepared.folder / name) for name in prepared.files]
    commit = api.create_commit(dataset, added, repo_type=kind, commit_message=message)
    api.create_tag(dataset, repo_type=kind, tag=prepared.version, revision=commit.oid, exist_ok=True)
    return f"{api.endpoint}/datasets/{dataset}/tree/{prepared.version}"


def _parquet(frame: pl.DataFrame) -> bytes:
    data = BytesIO()
    frame.write_parquet(data, compression="zstd", statistics=True)
    return data.getvalue()


def _metadata_files(reader: LakeReader) -> dict[str, bytes]:
    """Return the contents of `columns.csv` and of the recipe files, by path in the dataset."""
    store = Lake(reader.uri).store
    return {"columns.csv": read_csv_bytes()} | {key: store.get(key) for key in store.list(RECIPES_PREFIX)}


def _write_if_changed(path: Path, data: bytes) -> bool:
    if path.exists() and path.read_bytes() == data:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(data)
    os.replace(partial, path)
    return True
