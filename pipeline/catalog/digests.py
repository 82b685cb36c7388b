"""The digests that identify a checkpoint: taken for the plan, and taken again once its files have been loaded."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypedDict

from pipeline.catalog.checkpoint_files import (
    CONFIG_FILE,
    CheckpointFiles,
    LocalFolder,
    list_tokenizer_files,
    list_weight_files,
)
from pipeline.errors import FilesChangedError
from pipeline.hashing import digest_file_hashes
from pipeline.spec import Checkpoint
from pipeline.strict_model import digest_json

Sha256ByName = Mapping[str, str]
"""sha256 by file name."""


class Digests(TypedDict):
    """The fields of a Checkpoint that its files decide."""

    weights_digest: str
    config_digest: str
    tokenizer_digest: str


class FileHashes(NamedTuple):
    """The files of a checkpoint that are there, each with its sha256."""

    location: str
    weights: Sha256ByName
    config: Sha256ByName
    tokenizer: Sha256ByName

    @classmethod
    def from_files(cls, files: CheckpointFiles, tokenizer: CheckpointFiles) -> "FileHashes":
        """Hashes what is in a folder; of files on the Hub reads only those that it keeps no sha256 of."""
        return cls(
            files.location,
            _shas(files, list_weight_files(files)),
            _shas(files, (CONFIG_FILE,)),
            _shas(tokenizer, list_tokenizer_files(tokenizer)),
        )

    @property
    def digests(self) -> Digests:
        """Without weights or config.json, ones that no other checkpoint shares."""
        return {
            "weights_digest": digest_file_hashes(self.weights.items()) if self.weights else self._absent,
            "config_digest": digest_file_hashes(self.config.items()) if self.config else self._absent,
            "tokenizer_digest": digest_file_hashes(self.tokenizer.items()),
        }

    @property
    def _absent(self) -> str:
        """Two checkpoints that lack the same files are not the same checkpoint."""
        return digest_json(["absent", self.location], bits=256)


def weight_bytes(files: CheckpointFiles) -> int:
    """Size of the weight files that are there."""
    return sum(files.size(name) for name in list_weight_files(files) if name in files.names)


def bytes_to_hash(files: CheckpointFiles) -> int:
    """Size of what `Content.of` reads of a checkpoint itself, its tokenizer apart."""
    return weight_bytes(files) + (files.size(CONFIG_FILE) if CONFIG_FILE in files.names else 0)


def require_unchanged(checkpoint: Checkpoint) -> None:
    """Compare the files with what was planned; cheap where their clocks have not moved.

    Raises:
        ChangedError: they are others.
    """
    now = FileHashes.from_files(
        LocalFolder(Path(checkpoint.path)), LocalFolder(Path(checkpoint.tokenizer_path))
    ).digests
    for name, found in now.items():
        if found != getattr(checkpoint, name):
            what = name.removesuffix("_digest")
            raise FilesChangedError(
                f"checkpoint {checkpoint.label} in {checkpoint.path}",
                f"its {what} {'are' if what == 'weights' else 'is'} not what was planned",
                "Plan again",
            )


def _shas(files: CheckpointFiles, names: Sequence[str]) -> dict[str, str]:
    return {name: files.sha256(name) for name in names if name in files.names}
