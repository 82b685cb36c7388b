"""Checksums that identify a checkpoint: computed for the plan, and compared again after the files were loaded."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypedDict

from pipeline.catalog import checkpoint_files
from pipeline.catalog.checkpoint_files import CONFIG_FILE, CheckpointFiles, LocalFolder, list_weight_files
from pipeline.errors import FilesChangedError
from pipeline.hashing import digest_file_hashes, file_identity
from pipeline.spec import Checkpoint
from pipeline.strict_model import digest_json

Sha256ByName = Mapping[str, str]


class Digests(TypedDict):
    """Checkpoint fields computed from file contents."""

    weights_digest: str
    config_digest: str
    tokenizer_digest: str


class FileHashes(NamedTuple):
    """sha256 of each file of a checkpoint that exists."""

    location: str
    weights: Sha256ByName
    config: Sha256ByName
    tokenizer: Sha256ByName

    @classmethod
    def from_files(cls, files: CheckpointFiles, tokenizer: CheckpointFiles) -> "FileHashes":
        """Hash local files; on the Hub, read only the files whose sha256 the listing lacks."""
        weights, own = list_weight_files(files), checkpoint_files.list_tokenizer_files(tokenizer)
        return cls(files.location, _shas(files, weights), _shas(files, (CONFIG_FILE,)), _shas(tokenizer, own))

    @property
    def digests(self) -> Digests:
        """Digests of weights, config and tokenizer; unique to this location if weights or config.json are absent."""
        return {
            "weights_digest": digest_file_hashes(self.weights.items()) if self.weights else self._absent,
            "config_digest": digest_file_hashes(self.config.items()) if self.config else self._absent,
            "tokenizer_digest": digest_file_hashes(self.tokenizer.items()),
        }

    @property
    def _absent(self) -> str:
        # Two checkpoints that lack the same files must not count as duplicates.
        return digest_json(["absent", self.location], bits=256)


def bytes_to_hash(files: CheckpointFiles) -> int:
    """Return the number of bytes that `FileHashes.from_files` reads, without tokenizer files."""
    return sum(files.size(name) for name in (*list_weight_files(files), CONFIG_FILE) if name in files.names)


def require_unchanged(checkpoint: Checkpoint) -> None:
    """Compare the files with the planned digests; cached, so cheap if the files' timestamps are unchanged.

    Raises:
        FilesChangedError: a digest differs.
    """
    files, tokenizer = LocalFolder(Path(checkpoint.path)), LocalFolder(Path(checkpoint.tokenizer_path))
    for name, digest in FileHashes.from_files(files, tokenizer).digests.items():
        if digest != getattr(checkpoint, name):
            asked = f"checkpoint {checkpoint.label} in {checkpoint.path}"
            found = f"its {name.removesuffix('_digest')} changed after the plan was made"
            raise FilesChangedError(asked, found, "Run the sweep again to plan with the new files")


class FileStates(NamedTuple):
    """Identity of each file of a checkpoint at one moment, to notice any later write without reading the bytes."""

    checkpoint: Checkpoint
    identities: dict[str, list[str | int]]

    @classmethod
    def now(cls, checkpoint: Checkpoint) -> "FileStates":
        """The present state; a file that is absent has no identity."""
        folders = LocalFolder(Path(checkpoint.path)), LocalFolder(Path(checkpoint.tokenizer_path))
        weights, tokenizer = list_weight_files(folders[0]), checkpoint_files.list_tokenizer_files(folders[1])
        paths = [folders[0].path / name for name in (*weights, CONFIG_FILE) if name in folders[0].names]
        paths += [folders[1].path / name for name in tokenizer]
        return cls(checkpoint, {str(path): file_identity(path) for path in paths})

    def require_same(self) -> None:
        """Compare with the present state.

        Raises:
            FilesChangedError: a file was written, replaced, added or removed since.
        """
        try:
            now = FileStates.now(self.checkpoint).identities
        except OSError:  # removed between listing and stat
            now = {}
        if changed := sorted(path for path in now | self.identities if now.get(path) != self.identities.get(path)):
            asked = f"checkpoint {self.checkpoint.label} in {self.checkpoint.path}"
            found = f"{Path(changed[0]).name} was written while it was measured, so nothing is committed"
            raise FilesChangedError(asked, found, "Run the sweep again when no process writes to the folder")


def _shas(files: CheckpointFiles, names: Sequence[str]) -> dict[str, str]:
    return {name: files.sha256(name) for name in names if name in files.names}
