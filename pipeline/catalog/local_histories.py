"""Histories in local folders: every sub-folder that is an HF checkpoint, in training order."""

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
    """The history in a folder: its sub-folders, and the folder itself where it is a checkpoint.

    A sub-folder whose name states a step is always taken, whatever is in it: what it lacks is found when it is
    loaded and reported as that checkpoint's failure.
    """
    root = Path(source.local)
    if not root.is_dir():
        raise UsageError(
            f"history {root}",
            "no such folder",
            "Name a folder whose sub-folders are checkpoints (step512, checkpoint-1000, ...)",
        )
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    placed = [(place, path) for path in folders if (place := parse_name(path.name))]
    rest = [path for path in folders if parse_name(path.name) is None]
    if is_one := (root / CONFIG_FILE).is_file():
        placed.append((parse_name(root.name) or EMPTY_POINT, root))
    if not placed:
        raise UsageError(
            f"history {root}",
            f"no checkpoint among {len(folders)} sub-folders{_examples(rest)}",
            "Name them by step (step512, checkpoint-1000, iter_0002000, ...), each with config.json and weights",
        )
    placed.sort(key=lambda item: (item[0].sort_key, item[1].name))
    model = _model(root) if is_one and source.model is None else source.name
    with Progress(f"Hashing {model}", sum(bytes_to_hash(LocalFolder(path)) for _, path in placed)) as progress:
        found = [(place, *hash_checkpoint(path, place, source, model, progress)) for place, path in placed]
    unparsed = [
        Revision(path.name, training_order=UNKNOWN_ORDER, state="UNPARSED")
        for path in rest
        if (path / CONFIG_FILE).is_file()
    ]
    return History(
        model=model,
        revisions=(*(_revision(*one) for one in found), *unparsed),
        ignored_names=tuple(path.name for path in rest if not (path / CONFIG_FILE).is_file()),
    )


def hash_checkpoint(
    folder: Path, place: TrainingPoint, source: Local, model: str, progress: Progress | None = None
) -> tuple[Checkpoint, FileHashes]:
    """The checkpoint in `folder`, and whatever files are there."""
    tokenizer = Path(source.tokenizer) if source.tokenizer else folder
    files = LocalFolder(folder, progress)
    content = FileHashes.from_files(files, LocalFolder(tokenizer))
    checkpoint = Checkpoint(
        model=model,
        revision=folder.name if parse_name(folder.name) else "main",
        path=str(folder),
        tokenizer_path=str(tokenizer),
        family=source.family,
        **build_checkpoint_fields(files, content, place),
    )
    return checkpoint, content


def inspect_checkpoint(folder: Path, tokenizer: str | None = None) -> Checkpoint:
    """The checkpoint in one folder."""
    if not (folder / CONFIG_FILE).is_file():
        found = "no config.json in it" if folder.is_dir() else "no such folder"
        raise UsageError(f"checkpoint {folder}", found, "Name a folder saved by save_pretrained")
    place = parse_name(folder.name) or EMPTY_POINT
    return hash_checkpoint(folder, place, Local(local=str(folder), tokenizer=tokenizer), _model(folder))[0]


def _revision(place: TrainingPoint, checkpoint: Checkpoint, content: FileHashes) -> Revision:
    """Measured whatever it lacks: that it cannot be loaded is then its failure."""
    why = unloadable_reason(LocalFolder(Path(checkpoint.path)))
    return Revision(
        name=checkpoint.revision,
        training_point=place,
        training_order=FINAL_ORDER if place == EMPTY_POINT else (0, place.sort_key),
        state="NO_WEIGHTS" if why else "NEW",
        state_reason=why,
        weight_hashes={} if why else content.weights,
        checkpoint=checkpoint,
    )


def _model(folder: Path) -> str:
    """Of a folder that is a checkpoint: its parent's name where its own states a step."""
    folder = folder.resolve()
    return folder.parent.name if parse_name(folder.name) else folder.name


def _examples(folders: list[Path]) -> str:
    return f" ({', '.join(path.name for path in folders[:3])})" if folders else ""
