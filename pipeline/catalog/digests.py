"""Digests that identify a checkpoint. A plan computes them, and loading checks that the files still have them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypedDict

from pipeline.catalog import checkpoint_files
from pipeline.catalog.adapters import ADAPTER_CONFIG, find_adapter_weights
from pipeline.catalog.checkpoint_files import CONFIG_FILE, CheckpointFiles, LocalFolder, list_weight_files
from pipeline.errors import FilesChangedError
from pipeline.hashing import digest_file_hashes, file_identity
from pipeline.spec import Checkpoint
from pipeline.strict_model import digest_json

Sha256ByName = Mapping[str, str]
NO_TOKENIZER = digest_file_hashes({}.items())
"""Tokenizer digest of a checkpoint without tokenizer files."""


class Digests(TypedDict):
    """Checkpoint fields computed from file contents."""

    weights_digest: str
    config_digest: str
    tokenizer_digest: str


class FileHashes(NamedTuple):
    """sha256 of each existing file of a checkpoint."""

    location: str
    weights: Sha256ByName
    config: Sha256ByName
    tokenizer: Sha256ByName
    base: Digests | None = None
    """Digests of the base model, if `weights` and `config` are those of an adapter."""

    @classmethod
    def from_files(
        cls, files: CheckpointFiles, tokenizer: CheckpointFiles, base: Digests | None = None
    ) -> "FileHashes":
        """Return the hashes of all files; of files on the Hub, read only those whose sha256 the listing lacks.

        Args:
            base: digests of the base model, if the files are an adapter without whole weights.
        """
        weights, config = list_measured_files(files, base is not None)
        own = checkpoint_files.list_tokenizer_files(tokenizer)
        return cls(files.location, _shas(files, weights), _shas(files, config), _shas(tokenizer, own), base)

    @property
    def digests(self) -> Digests:
        """Digests of weights, config and tokenizer.

        If the weights or config.json are absent, their digest is computed from the location instead. For an adapter,
        the digests of weights and config are computed from the pair [digest of the base model, digest of the adapter].
        """
        weights = digest_file_hashes(self.weights.items()) if self.weights else self._absent
        config = digest_file_hashes(self.config.items()) if self.config else self._absent
        if self.base is not None:
            weights = digest_json([self.base["weights_digest"], weights], bits=256)
            config = digest_json([self.base["config_digest"], config], bits=256)
        tokenizer = digest_file_hashes(self.tokenizer.items())
        return {"weights_digest": weights, "config_digest": config, "tokenizer_digest": tokenizer}

    @property
    def _absent(self) -> str:
        # Two checkpoints that lack the same files must not count as duplicates.
        return digest_json(["absent", self.location], bits=256)


def base_digests(base: Checkpoint) -> Digests:
    """Return the digests of a base model, which enter the digests of its adapters."""
    return {name: getattr(base, name) for name in Digests.__annotations__}  # type: ignore[return-value]


def bytes_to_hash(files: CheckpointFiles, has_base: bool = False) -> int:
    """Return the size of the weight files and the config that `FileHashes.from_files` hashes, in bytes.

    The tokenizer files, which are also hashed, are not counted.

    Args:
        has_base: True if the source names a base model, into which an adapter is merged.
    """
    weights, config = list_measured_files(files, has_base and checkpoint_files.is_adapter_alone(files))
    return sum(files.size(name) for name in (*weights, *config) if name in files.names)


def require_unchanged(checkpoint: Checkpoint) -> None:
    """Require that the files of a local checkpoint still have the digests of the plan.

    The sha256 of each file is cached together with the file's size and times, so unchanged files are not read again.

    Raises:
        FilesChangedError: a digest differs.
    """
    files, tokenizer = LocalFolder(Path(checkpoint.path)), LocalFolder(Path(checkpoint.tokenizer_path))
    base = LocalFolder(Path(checkpoint.base_path)) if checkpoint.base_path else None
    base_digests = FileHashes.from_files(base, tokenizer).digests if base else None
    for name, digest in FileHashes.from_files(files, tokenizer, base_digests).digests.items():
        if digest != getattr(checkpoint, name):
            asked = f"checkpoint {checkpoint.label} in {checkpoint.path}"
            found = f"its {name.removesuffix('_digest')} changed after the plan was made"
            raise FilesChangedError(asked, found, "Run the sweep again to plan with the new files")


class FileStates(NamedTuple):
    """Identity of each file of a checkpoint at one moment, to detect any later write without reading the bytes."""

    checkpoint: Checkpoint
    identities: dict[str, list[str | int]]
    """Result of `file_identity` by path; an absent file has no entry."""

    @classmethod
    def now(cls, checkpoint: Checkpoint) -> "FileStates":
        """Return the present state of the checkpoint's files."""
        own, tokenizer = LocalFolder(Path(checkpoint.path)), LocalFolder(Path(checkpoint.tokenizer_path))
        folders = [(own, bool(checkpoint.base_path))]
        folders += [(LocalFolder(Path(checkpoint.base_path)), False)] if checkpoint.base_path else []
        paths = [folder.path / name for folder, adapter in folders for name in _present(folder, adapter)]
        paths += [tokenizer.path / name for name in checkpoint_files.list_tokenizer_files(tokenizer)]
        return cls(checkpoint, {str(path): file_identity(path) for path in paths})

    def require_same(self) -> None:
        """Require that the files are still in this state.

        Raises:
            FilesChangedError: a file was written, replaced, added or removed since this state was taken.
        """
        try:
            now = FileStates.now(self.checkpoint).identities
        except OSError:  # removed between listing and stat
            now = {}
        if changed := sorted(path for path in now | self.identities if now.get(path) != self.identities.get(path)):
            asked = f"checkpoint {self.checkpoint.label} in {self.checkpoint.path}"
            found = f"{Path(changed[0]).name} was written while the checkpoint was measured, so nothing is committed"
            raise FilesChangedError(asked, found, "Run the sweep again when no process writes to the folder")


def list_measured_files(files: CheckpointFiles, is_adapter: bool) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return (names of the weight files, name of the config in a tuple), of a whole model or of an adapter."""
    if is_adapter:
        return tuple(filter(None, (find_adapter_weights(files),))), (ADAPTER_CONFIG,)
    return list_weight_files(files), (CONFIG_FILE,)


def _present(files: LocalFolder, is_adapter: bool) -> list[str]:
    return [name for names in list_measured_files(files, is_adapter) for name in names if name in files.names]


def _shas(files: CheckpointFiles, names: Sequence[str]) -> dict[str, str]:
    return {name: files.sha256(name) for name in names if name in files.names}
