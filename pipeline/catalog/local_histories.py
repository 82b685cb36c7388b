"""Histories in local folders: every sub-folder that is an HF checkpoint, in training order."""

from pathlib import Path

from pipeline.catalog.checkpoint_files import CONFIG, Folder, lacking
from pipeline.catalog.checkpoint_metadata import facts
from pipeline.catalog.digests import Content, hashed_bytes
from pipeline.catalog.revision_names import Place, parse
from pipeline.catalog.revisions import FINAL, NOWHERE, UNPLACED, History, Revision
from pipeline.errors import UsageError
from pipeline.progress import Progress
from pipeline.spec import Checkpoint, Local


def discover(source: Local) -> History:
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
    placed = [(place, path) for path in folders if (place := parse(path.name))]
    rest = [path for path in folders if parse(path.name) is None]
    if is_one := (root / CONFIG).is_file():
        placed.append((parse(root.name) or NOWHERE, root))
    if not placed:
        raise UsageError(
            f"history {root}",
            f"no checkpoint among {len(folders)} sub-folders{_examples(rest)}",
            "Name them by step (step512, checkpoint-1000, iter_0002000, ...), each with config.json and weights",
        )
    placed.sort(key=lambda item: (item[0].order, item[1].name))
    model = _model(root) if is_one and source.model is None else source.name
    with Progress(f"Hashing {model}", sum(hashed_bytes(Folder(path)) for _, path in placed)) as progress:
        found = [(place, *describe(path, place, source, model, progress)) for place, path in placed]
    unparsed = [Revision(path.name, order=UNPLACED, state="UNPARSED") for path in rest if (path / CONFIG).is_file()]
    return History(
        model=model,
        revisions=(*(_revision(*one) for one in found), *unparsed),
        other=tuple(path.name for path in rest if not (path / CONFIG).is_file()),
    )


def describe(
    folder: Path, place: Place, source: Local, model: str, progress: Progress | None = None
) -> tuple[Checkpoint, Content]:
    """The checkpoint in `folder`, and whatever files are there."""
    tokenizer = Path(source.tokenizer) if source.tokenizer else folder
    files = Folder(folder, progress)
    content = Content.of(files, Folder(tokenizer))
    checkpoint = Checkpoint(
        model=model,
        revision=folder.name if parse(folder.name) else "main",
        path=str(folder),
        tokenizer_path=str(tokenizer),
        family=source.family,
        **facts(files, content, place),
    )
    return checkpoint, content


def single(folder: Path, tokenizer: str | None = None) -> Checkpoint:
    """The checkpoint in one folder."""
    if not (folder / CONFIG).is_file():
        found = "no config.json in it" if folder.is_dir() else "no such folder"
        raise UsageError(f"checkpoint {folder}", found, "Name a folder saved by save_pretrained")
    place = parse(folder.name) or NOWHERE
    return describe(folder, place, Local(local=str(folder), tokenizer=tokenizer), _model(folder))[0]


def _revision(place: Place, checkpoint: Checkpoint, content: Content) -> Revision:
    """Measured whatever it lacks: that it cannot be loaded is then its failure."""
    why = lacking(Folder(Path(checkpoint.path)))
    return Revision(
        name=checkpoint.revision,
        place=place,
        order=FINAL if place == NOWHERE else (0, place.order),
        state="NO_WEIGHTS" if why else "NEW",
        why=why,
        files={} if why else content.weights,
        checkpoint=checkpoint,
    )


def _model(folder: Path) -> str:
    """Of a folder that is a checkpoint: its parent's name where its own states a step."""
    folder = folder.resolve()
    return folder.parent.name if parse(folder.name) else folder.name


def _examples(folders: list[Path]) -> str:
    return f" ({', '.join(path.name for path in folders[:3])})" if folders else ""
