"""Snapshots in the user's Hugging Face cache, which replace the Hub on nodes without network."""

import re
from pathlib import Path

from huggingface_hub import constants, try_to_load_from_cache
from huggingface_hub.file_download import repo_folder_name

from pipeline.hashing import file_sha256

GIT_BLOB, LFS_SHA256 = re.compile(r"[0-9a-f]{40}"), re.compile(r"[0-9a-f]{64}")


def list_snapshot_refs(repo: str) -> dict[str, str]:
    """Return a dict from the name of each branch or tag that has a snapshot in the cache to its commit."""
    folder = _folder(repo)
    named = {str(path.relative_to(folder / "refs")): path for path in (folder / "refs").rglob("*") if path.is_file()}
    commits = {name: path.read_text().strip() for name, path in sorted(named.items())}
    return {name: commit for name, commit in commits.items() if (folder / "snapshots" / commit).is_dir()}


def list_snapshot_files(repo: str, commit: str) -> list[dict[str, str | int | None]]:
    """Return a dict with `path`, `size`, `oid` and `sha256` for each file that the cache has of a snapshot.

    The cache names an LFS file by its sha256, and any other file by its git blob id. For an LFS file, `oid` and
    `sha256` are this sha256; for any other file, `oid` is the git blob id and `sha256` is None. In a cache that has
    copies in place of links, every file is hashed and treated like an LFS file.
    """
    folder = _folder(repo) / "snapshots" / commit
    return [_describe(folder, path) for path in sorted(folder.rglob("*")) if path.is_file()]


def read_snapshot_file(repo: str, commit: str, path: str) -> bytes | None:
    """Return the bytes of a file of a snapshot; None if the cache lacks the file."""
    cached = try_to_load_from_cache(repo, path, revision=commit)
    return Path(cached).read_bytes() if isinstance(cached, str) else None


def _folder(repo: str) -> Path:
    return Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo, repo_type="model")


def _describe(folder: Path, path: Path) -> dict[str, str | int | None]:
    name = path.resolve().name
    sha256 = name if LFS_SHA256.fullmatch(name) else None
    if sha256 is None and not GIT_BLOB.fullmatch(name):  # a cache without links
        sha256 = name = file_sha256(path)
    entry = {"path": path.relative_to(folder).as_posix(), "size": path.stat().st_size}
    return {**entry, "oid": name, "sha256": sha256}
