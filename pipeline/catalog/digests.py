"""The digests that identify a checkpoint: taken for the plan, and taken again once its files have been loaded."""

from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

from pipeline.catalog.files import CONFIG, tokenizer_files, weight_files
from pipeline.errors import ChangedError
from pipeline.hashing import digest_of_files
from pipeline.noun import digest
from pipeline.progress import Progress
from pipeline.spec import Checkpoint


class Digests(TypedDict):
    """The fields of a Checkpoint that its files decide."""

    weights_digest: str
    config_digest: str
    tokenizer_digest: str


def digests(folder: Path, tokenizer: Path, progress: Progress | None = None) -> Digests:
    """Digests of whatever files are there; without weights or config.json, ones that no other checkpoint shares.

    Args:
        progress: to which the bytes of the weights are added.
    """
    return {
        "weights_digest": _digest(folder, weight_files(folder), progress) or _absent(folder),
        "config_digest": _digest(folder, (CONFIG,)) or _absent(folder),
        "tokenizer_digest": digest_of_files(tokenizer, tokenizer_files(tokenizer)),
    }


def weight_bytes(folder: Path) -> int:
    """Size of the weight files that are there."""
    return sum((folder / name).stat().st_size for name in _there(folder, weight_files(folder)))


def require_unchanged(checkpoint: Checkpoint) -> None:
    """Compare the files with what was planned; cheap where their clocks have not moved.

    Raises:
        ChangedError: they are others.
    """
    now = digests(Path(checkpoint.path), Path(checkpoint.tokenizer_path))
    for name, found in now.items():
        if found != getattr(checkpoint, name):
            what = name.removesuffix("_digest")
            raise ChangedError(
                f"checkpoint {checkpoint.label} in {checkpoint.path}",
                f"its {what} {'are' if what == 'weights' else 'is'} not what was planned",
                "Plan again",
            )


def _digest(folder: Path, names: Sequence[str], progress: Progress | None = None) -> str | None:
    there = _there(folder, names)
    return digest_of_files(folder, there, progress) if there else None


def _there(folder: Path, names: Sequence[str]) -> list[str]:
    return [name for name in names if (folder / name).is_file()]


def _absent(folder: Path) -> str:
    """Two checkpoints that lack the same files are not the same checkpoint."""
    return digest(["absent", str(folder)], bits=256)
