"""Discovery of histories in local folders: each subfolder with a HF checkpoint is a revision."""

from dataclasses import replace
from pathlib import Path

from pipeline.catalog.checkpoint_files import CONFIG_FILE, LocalFolder, unloadable_reason
from pipeline.catalog.checkpoint_metadata import build_checkpoint_fields
from pipeline.catalog.digests import FileHashes, bytes_to_hash
from pipeline.catalog.revision_names import TrainingPoint, parse_name
from pipeline.catalog.revisions import EMPTY_POINT, FINAL_ORDER, UNKNOWN_ORDER, History, Revision
from pipeline.errors import UsageError
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
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    parsed = [(point, path) for path in folders if (point := parse_name(path.name))]
    rest = [path for path in folders if parse_name(path.name) is None]
    if root_is_checkpoint := (root / CONFIG_FILE).is_file():
        parsed.append((parse_name(root.name) or EMPTY_POINT, root))
    if not parsed:
        examples = f" ({', '.join(path.name for path in rest[:3])})" if rest else ""
        found = f"no checkpoint among {len(folders)} subfolders{examples}"
        do = "Name each subfolder by its step (step512, checkpoint-1000, iter_0002000, ...)"
        raise UsageError(f"history {root}", found, do)
    parsed.sort(key=lambda item: (item[0].sort_key, item[1].name))
    model = _model(root) if root_is_checkpoint and source.model is None else source.name
    with Progress(f"Hashing {model}", sum(bytes_to_hash(LocalFolder(path)) for _, path in parsed)) as progress:
        hashed = [(point, *hash_checkpoint(path, point, source, model, progress)) for point, path in parsed]
    complete = [path.name for path in rest if (path / CONFIG_FILE).is_file()]
    unparsed = [Revision(name, training_order=UNKNOWN_ORDER, state="UNPARSED") for name in complete]
    ignored = tuple(path.name for path in rest if path.name not in complete)
    return History(model, (*(_revision(*item) for item in hashed), *unparsed), ignored)


def hash_checkpoint(
    folder: Path, point: TrainingPoint, source: Local, model: str, progress: Progress | None = None
) -> tuple[Checkpoint, FileHashes]:
    """Return the checkpoint in `folder`, and the hashes of the files that exist."""
    tokenizer = Path(source.tokenizer) if source.tokenizer else folder
    files = LocalFolder(folder, progress)
    hashes = FileHashes.from_files(files, LocalFolder(tokenizer))
    checkpoint = Checkpoint(
        model=model,
        revision=folder.name if parse_name(folder.name) else "main",
        path=str(folder),
        tokenizer_path=str(tokenizer),
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
    return hash_checkpoint(folder, point, Local(local=str(folder), tokenizer=tokenizer), _model(folder))[0]


def _revision(point: TrainingPoint, checkpoint: Checkpoint, hashes: FileHashes) -> Revision:
    # An incomplete checkpoint is included too: loading it then fails with the reason.
    reason = unloadable_reason(LocalFolder(Path(checkpoint.path)))
    order = FINAL_ORDER if point == EMPTY_POINT else (0, point.sort_key)
    revision = Revision(checkpoint.revision, point, order, checkpoint=checkpoint)
    if reason:
        return replace(revision, state="NO_WEIGHTS", state_reason=reason)
    return replace(revision, weight_hashes=hashes.weights)


def _model(folder: Path) -> str:
    """Return the model name of a checkpoint folder: its parent's name if its own name states a step."""
    folder = folder.resolve()
    return folder.parent.name if parse_name(folder.name) else folder.name
