"""Histories in local folders: every sub-folder that is an HF checkpoint, in training order."""

import json
from dataclasses import dataclass
from pathlib import Path

from pipeline.catalog.architectures import kinds
from pipeline.catalog.digests import digests, weight_bytes
from pipeline.catalog.files import CONFIG
from pipeline.catalog.names import Place, parse
from pipeline.errors import UsageError
from pipeline.progress import Progress
from pipeline.spec import Checkpoint, Kind, Local


@dataclass(frozen=True)
class History:
    """The checkpoints of one model in training order, and the folders that are none, by name."""

    model: str
    checkpoints: tuple[Checkpoint, ...]
    unparsed: tuple[str, ...]
    """Sub-folders that hold a checkpoint but do not say which: not measured."""
    other: tuple[str, ...]
    """Sub-folders that hold no checkpoint."""


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
        placed.append((parse(root.name) or Place(), root))
    if not placed:
        raise UsageError(
            f"history {root}",
            f"no checkpoint among {len(folders)} sub-folders{_examples(rest)}",
            "Name them by step (step512, checkpoint-1000, iter_0002000, ...), each with config.json and weights",
        )
    placed.sort(key=lambda item: (item[0].order, item[1].name))
    model = _model(root) if is_one and source.model is None else source.name
    with Progress(f"Hashing {model}", sum(weight_bytes(path) for _, path in placed)) as progress:
        checkpoints = tuple(describe(path, place, source, model, progress) for place, path in placed)
    return History(
        model=model,
        checkpoints=checkpoints,
        unparsed=tuple(path.name for path in rest if (path / CONFIG).is_file()),
        other=tuple(path.name for path in rest if not (path / CONFIG).is_file()),
    )


def describe(folder: Path, place: Place, source: Local, model: str, progress: Progress | None = None) -> Checkpoint:
    """The checkpoint in `folder`, with the digests of whatever files are there."""
    tokenizer = Path(source.tokenizer) if source.tokenizer else folder
    return Checkpoint(
        model=model,
        revision=folder.name if parse(folder.name) else "main",
        path=str(folder),
        tokenizer_path=str(tokenizer),
        kinds=_kinds(folder / CONFIG),
        family=source.family,
        step=place.step,
        tokens_seen=place.tokens,
        tokens_source=None if place.tokens is None else "name",
        stage=place.stage,
        run=place.run,
        **digests(folder, tokenizer, progress),
    )


def single(folder: Path, tokenizer: str | None = None) -> Checkpoint:
    """The checkpoint in one folder."""
    if not (folder / CONFIG).is_file():
        found = "no config.json in it" if folder.is_dir() else "no such folder"
        raise UsageError(f"checkpoint {folder}", found, "Name a folder saved by save_pretrained")
    place = parse(folder.name) or Place()
    return describe(folder, place, Local(local=str(folder), tokenizer=tokenizer), _model(folder))


def _model(folder: Path) -> str:
    """Of a folder that is a checkpoint: its parent's name where its own states a step."""
    folder = folder.resolve()
    return folder.parent.name if parse(folder.name) else folder.name


def _kinds(config: Path) -> tuple[Kind, ...]:
    """Empty where the config cannot be read or understood: loading it says why."""
    try:
        return kinds(json.loads(config.read_text()))
    except (OSError, ValueError):
        return ()


def _examples(folders: list[Path]) -> str:
    return f" ({', '.join(path.name for path in folders[:3])})" if folders else ""
