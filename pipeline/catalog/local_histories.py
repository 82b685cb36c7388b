"""Discovery of histories in local folders: each subfolder with a HF checkpoint is a revision."""

import os
from collections.abc import Sequence
from pathlib import Path

from pipeline.catalog.adapters import ADAPTER_CONFIG
from pipeline.catalog.checkpoint_files import (
    CONFIG_FILE,
    LocalFolder,
    has_tokenizer,
    is_adapter_alone,
    unloadable_reason,
)
from pipeline.catalog.checkpoint_metadata import build_checkpoint_fields, put_on_base
from pipeline.catalog.digests import FileHashes, base_digests, bytes_to_hash
from pipeline.catalog.revision_names import TrainingPoint, parse_folder_name, parse_name, parse_with_pattern
from pipeline.catalog.revisions import EMPTY_POINT, FINAL_ORDER, UNKNOWN_ORDER, History, Revision
from pipeline.errors import UsageError
from pipeline.hashing import batch_checksums
from pipeline.progress import Progress
from pipeline.spec import Checkpoint, Local


def discover_history(source: Local, base: Checkpoint | None = None) -> History:
    """Return the history in a folder: its subfolders, and the folder itself if it is a checkpoint.

    A subfolder whose name states a step is always included, even if incomplete: loading it later fails and reports the
    missing files.

    Args:
        base: model into which adapters without whole weights are merged.

    Raises:
        UsageError: the folder does not exist or contains no checkpoint.
    """
    root = Path(source.local)
    if not root.is_dir():
        do = "Give a folder whose subfolders are checkpoints (step512, checkpoint-1000, ...)"
        raise UsageError(f"history {root}", "no such folder", do)
    names = [(_parse(root / name, source.pattern), name) for name in _subfolders(root)]
    parsed = [(point, root / name) for point, name in names if point]
    rest = [root / name for point, name in names if point is None]
    if root_is_checkpoint := _is_checkpoint(root):
        parsed.append((_parse(root, source.pattern) or EMPTY_POINT, root))
    if not parsed:
        examples = f" ({', '.join(path.name for path in rest[:3])})" if rest else ""
        found = f"no checkpoint among {len(rest)} subfolders{examples}"
        do = r"Name each subfolder by its step (step512, ...), or set pattern: {local: PATH, pattern: 'x(?P<step>\d+)'}"
        raise UsageError(f"history {root}", found, do)
    parsed.sort(key=lambda item: (item[0].sort_key, item[1].name))
    model = _model(root) if root_is_checkpoint and source.model is None else source.name
    revisions = _hash_all([(point, LocalFolder(path)) for point, path in parsed], source, model, base)
    complete = {path.name: path for path in rest if _is_checkpoint(path)}
    unparsed = [Revision(name, training_order=UNKNOWN_ORDER, state="UNPARSED") for name in complete]
    return History(model, (*revisions, *unparsed), tuple(path.name for path in rest if path.name not in complete))


def _hash_all(
    found: Sequence[tuple[TrainingPoint, LocalFolder]], source: Local, model: str, base: Checkpoint | None
) -> list[Revision]:
    tokenizer = _open_tokenizer(source)
    total = sum(bytes_to_hash(files, base is not None) for _, files in found)
    with Progress(f"Hashing {model}", total) as progress, batch_checksums(Path(source.local)):
        revisions = []
        for point, files in found:
            files.progress = progress
            checkpoint, hashes = hash_checkpoint(files, point, source, model, tokenizer, base)
            revisions.append(_revision(point, files, checkpoint, hashes, base is not None))
    return revisions


def hash_checkpoint(
    files: LocalFolder,
    point: TrainingPoint,
    source: Local,
    model: str,
    tokenizer: LocalFolder | None,
    base: Checkpoint | None = None,
) -> tuple[Checkpoint, FileHashes]:
    """Return the checkpoint in a folder, and the hashes of the files that exist.

    Args:
        tokenizer: folder of the tokenizer files; None = `files`.
        base: base model of an adapter; not used if the folder has whole weights.
    """
    base = base if base and is_adapter_alone(files) else None
    hashes = FileHashes.from_files(files, tokenizer or files, base and base_digests(base))
    checkpoint = Checkpoint(
        model=model,
        revision="main" if point == EMPTY_POINT else files.path.name,
        path=files.location,
        tokenizer_path=(tokenizer or files).location,
        family=source.family,
        **build_checkpoint_fields(files, hashes, point),
    )
    if base:
        checkpoint = put_on_base(checkpoint, base, own_tokenizer=tokenizer is not None or has_tokenizer(files))
    return checkpoint, hashes


def inspect_checkpoint(folder: Path, tokenizer: str | None = None, base: Checkpoint | None = None) -> Checkpoint:
    """Return the checkpoint in one folder; raises UsageError if the folder has neither config.json nor an adapter."""
    if not _is_checkpoint(folder):
        found = "no config.json in it" if folder.is_dir() else "no such folder"
        raise UsageError(f"checkpoint {folder}", found, "Give a folder saved by save_pretrained")
    point = _parse(folder) or EMPTY_POINT
    source = Local(local=str(folder), tokenizer=tokenizer)
    return hash_checkpoint(LocalFolder(folder), point, source, _model(folder), _open_tokenizer(source), base)[0]


def _is_checkpoint(folder: Path) -> bool:
    return (folder / CONFIG_FILE).is_file() or (folder / ADAPTER_CONFIG).is_file()


def _open_tokenizer(source: Local) -> LocalFolder | None:
    return LocalFolder(Path(source.tokenizer)) if source.tokenizer else None


def _subfolders(root: Path) -> list[str]:
    with os.scandir(root) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def _revision(
    point: TrainingPoint, files: LocalFolder, checkpoint: Checkpoint, hashes: FileHashes, has_base: bool
) -> Revision:
    # An incomplete checkpoint is included, so that loading it fails with the reason.
    reason = unloadable_reason(files, has_base=has_base)
    state, weights = ("NO_WEIGHTS", {}) if reason else ("NEW", hashes.weights)
    order = FINAL_ORDER if point == EMPTY_POINT else (0, point.sort_key)
    return Revision(checkpoint.revision, point, order, None, state, reason, weights, checkpoint=checkpoint)


def _model(folder: Path) -> str:
    """Return the model name for a checkpoint folder: the parent's name if the folder's name states a step, else its
    own."""
    folder = folder.resolve()
    return folder.parent.name if _parse(folder) else folder.name


def _parse(folder: Path, pattern: str | None = None) -> TrainingPoint | None:
    """Return the training point that a folder's name states; None if it states none.

    Without a pattern, a bare number counts as a step only if the folder is a checkpoint.
    """
    if pattern is not None:
        return parse_with_pattern(folder.name, pattern)
    return parse_name(folder.name) or (parse_folder_name(folder.name) if _is_checkpoint(folder) else None)
