"""Discovery of histories in local folders: each subfolder with a HF checkpoint is a revision."""

import os
from collections.abc import Sequence
from pathlib import Path

from pipeline.catalog.checkpoint_files import CONFIG_FILE, LocalFolder, unloadable_reason
from pipeline.catalog.checkpoint_metadata import build_checkpoint_fields
from pipeline.catalog.digests import FileHashes, bytes_to_hash
from pipeline.catalog.revision_names import TrainingPoint, parse_name
from pipeline.catalog.revisions import EMPTY_POINT, FINAL_ORDER, UNKNOWN_ORDER, History, Revision
from pipeline.errors import UsageError
from pipeline.hashing import batch_checksums
from pipeline.progress import Progress
from pipeline.spec import Checkpoint, Local


def discover_history(source: Local) -> History:
    """Return the history in a folder: its subfolders, and the folder itself if it is a checkpoint.

    A subfolder whose name states a step is always included, even if incomplete: missing files are reported as a
    failure of that checkpoint when it is loaded.

    Raises:
        UsageError: the folder does not exist or contains no checkpoint.
    """
    root = Path(source.local)
    if not root.is_dir():
        do = "Give a folder whose subfolders are checkpoints (step512, checkpoint-1000, ...)"
        raise UsageError(f"history {root}", "no such folder", do)
    names = [(parse_name(name), name) for name in _subfolders(root)]
    parsed = [(point, root / name) for point, name in names if point]
    rest = [root / name for point, name in names if point is None]
    if root_is_checkpoint := (root / CONFIG_FILE).is_file():
        parsed.append((parse_name(root.name) or EMPTY_POINT, root))
    if not parsed:
        examples = f" ({', '.join(path.name for path in rest[:3])})" if rest else ""
        found = f"no checkpoint among {len(rest)} subfolders{examples}"
        do = "Name each subfolder by its step (step512, checkpoint-1000, iter_0002000, ...)"
        raise UsageError(f"history {root}", found, do)
    parsed.sort(key=lambda item: (item[0].sort_key, item[1].name))
    model = _model(root) if root_is_checkpoint and source.model is None else source.name
    revisions = _hash_all([(point, LocalFolder(path)) for point, path in parsed], source, model)
    complete = {path.name: path for path in rest if (path / CONFIG_FILE).is_file()}
    unparsed = [Revision(name, training_order=UNKNOWN_ORDER, state="UNPARSED") for name in complete]
    return History(model, (*revisions, *unparsed), tuple(path.name for path in rest if path.name not in complete))


def _hash_all(found: Sequence[tuple[TrainingPoint, LocalFolder]], source: Local, model: str) -> list[Revision]:
    tokenizer = _open_tokenizer(source)
    total = sum(bytes_to_hash(files) for _, files in found)
    with Progress(f"Hashing {model}", total) as progress, batch_checksums(Path(source.local)):
        revisions = []
        for point, files in found:
            files.progress = progress
            checkpoint, hashes = hash_checkpoint(files, point, source, model, tokenizer)
            revisions.append(_revision(point, files, checkpoint, hashes))
    return revisions


def hash_checkpoint(
    files: LocalFolder, point: TrainingPoint, source: Local, model: str, tokenizer: LocalFolder | None
) -> tuple[Checkpoint, FileHashes]:
    """Return the checkpoint in a folder, and the hashes of the files that exist.

    Args:
        tokenizer: folder of the tokenizer files; None = `files`.
    """
    tokenizer = tokenizer or files
    hashes = FileHashes.from_files(files, tokenizer)
    checkpoint = Checkpoint(
        model=model,
        revision="main" if point == EMPTY_POINT else files.path.name,
        path=files.location,
        tokenizer_path=tokenizer.location,
        family=source.family,
        **build_checkpoint_fields(files, hashes, point),
    )
    return checkpoint, hashes


def inspect_checkpoint(folder: Path, tokenizer: str | None = None) -> Checkpoint:
    """Return the checkpoint in one folder; raises UsageError if the folder has no config.json."""
    if not (folder / CONFIG_FILE).is_file():
        found = "no config.json in it" if folder.is_dir() else "no such folder"
        raise UsageError(f"checkpoint {folder}", found, "Give a folder saved by save_pretrained")
    point = parse_name(folder.name) or EMPTY_POINT
    source = Local(local=str(folder), tokenizer=tokenizer)
    return hash_checkpoint(LocalFolder(folder), point, source, _model(folder), _open_tokenizer(source))[0]


def _open_tokenizer(source: Local) -> LocalFolder | None:
    return LocalFolder(Path(source.tokenizer)) if source.tokenizer else None


def _subfolders(root: Path) -> list[str]:
    with os.scandir(root) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def _revision(point: TrainingPoint, files: LocalFolder, checkpoint: Checkpoint, hashes: FileHashes) -> Revision:
    # An incomplete checkpoint is included too: loading it then fails with the reason.
    reason = unloadable_reason(files)
    state, weights = ("NO_WEIGHTS", {}) if reason else ("NEW", hashes.weights)
    order = FINAL_ORDER if point == EMPTY_POINT else (0, point.sort_key)
    return Revision(checkpoint.revision, point, order, None, state, reason, weights, checkpoint=checkpoint)


def _model(folder: Path) -> str:
    """Return the model name of a checkpoint folder: its parent's name if its own name states a step."""
    folder = folder.resolve()
    return folder.parent.name if parse_name(folder.name) else folder.name
