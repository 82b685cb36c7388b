"""The one way to the Hugging Face Hub's listings and small files; what cannot change is asked for once.

HF_ENDPOINT, HF_HOME, HF_TOKEN and HF_HUB_OFFLINE mean what they mean to huggingface_hub.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from huggingface_hub import HfApi, constants, errors, get_session, get_token, hf_hub_url
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status
from pydantic import Field, TypeAdapter, ValidationError

from pipeline import cache
from pipeline.catalog.hub_http import TransientError, call_with_retries, last_response_path
from pipeline.errors import UsageError
from pipeline.strict_model import SafeRelativePath, StrictModel, canonical_json, digest_json


class Refs(NamedTuple):
    """The names of a repository's commits."""

    repo: str
    """Canonical id, which differs from the one asked for where the repository was renamed."""
    branches: dict[str, str]
    """Name -> commit."""
    tags: dict[str, str]


class TreeEntry(StrictModel):
    """A file of a commit."""

    path: SafeRelativePath
    size: int
    oid: Annotated[str, Field(pattern=r"^[0-9a-f]{40,64}$")]
    """Of the git blob: equal for equal bytes; for an LFS file, that of its pointer. Names a file of the cache."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None
    """Of LFS files, which is what weights are; null for others."""


REFS, TREE = TypeAdapter(Refs), TypeAdapter(tuple[TreeEntry, ...])


def fetch_refs(repo: str) -> Refs:
    """Branches and tags, in one request; with HF_HUB_OFFLINE the last answer.

    Raises:
        FetchError: no answer now.
        UsageError: no such repository, no permission, or offline and never asked before.
    """
    return Refs(**_ask_or_cached(["refs", repo], f"refs of {repo}", lambda: _refs(repo)))


def list_model_ids(author: str, search: str = "") -> tuple[str, ...]:
    """Ids of the author's models whose names contain `search`, sorted; with HF_HUB_OFFLINE the last answer.

    Raises:
        FetchError, UsageError: as for `refs`.
    """
    asked = f"models of {author} named like {search!r}" if search else f"models of {author}"
    return tuple(sorted(_ask_or_cached(["repos", author, search], asked, lambda: _repos(author, search))))


def fetch_tree(repo: str, commit: str) -> tuple[TreeEntry, ...]:
    """All files of a commit, sub-folders included; asked for once, kept for ever.

    Raises:
        FetchError: no answer now.
        UsageError: no such repository or commit.
    """
    note = cache.folder("hub/trees") / digest_json([repo, commit])
    if kept := _cached_tree(note):
        return kept
    found = call_with_retries(f"files of {repo} at {commit}", lambda: _tree(repo, commit))
    if found:  # no commit is without files, so none today is no answer to keep
        cache.write_atomic(note, canonical_json([entry.model_dump() for entry in found]).encode())
    return found


def fetch_small_file(repo: str, commit: str, entry: TreeEntry) -> bytes:
    """A small file, whole and checked against its entry; kept for ever.

    Raises:
        FetchError: no answer now, or damaged ones.
        UsageError: gated, or no such file.
    """
    asked = f"{entry.path} of {repo} at {commit}"
    return _read_or_make(
        cache.folder("hub/files") / entry.oid, lambda: call_with_retries(asked, lambda: _checked(repo, commit, entry))
    )


def fetch_sha256(repo: str, commit: str, entry: TreeEntry) -> str:
    """The sha256 of a file: the Hub's own of an LFS file, else of the bytes, which are read."""
    return entry.sha256 or hashlib.sha256(fetch_small_file(repo, commit, entry)).hexdigest()


def is_access_denied(repo: str, commit: str) -> bool:
    """Whether the repository is gated and its files are not granted; refs and trees are open even then.

    Asked once per token: that files may be read is kept for ever, that they may not is asked again.

    Raises:
        FetchError: no answer now.
        UsageError: no such repository or commit.
    """
    note = cache.folder("hub/open") / digest_json([constants.ENDPOINT, repo, _token_key()])
    if note.exists() or constants.is_offline_mode():
        return False
    held = call_with_retries(f"permission to read {repo}", lambda: _is_access_denied(repo, commit))
    if not held:
        cache.write_atomic(note, b"")
    return held


@contextmanager
def _malformed_as_transient() -> Iterator[None]:
    """What the library and our own types stumble over inside the block is an answer that is no listing."""
    try:
        yield
    except (LookupError, TypeError, AttributeError, UnicodeError, RecursionError, ValidationError) as error:
        raise TransientError("answers something that is no listing") from error


def _refs(repo: str) -> dict[str, Any]:
    with _malformed_as_transient():
        found = HfApi().list_repo_refs(repo)
        name = re.fullmatch(r"/api/models/(.+)/refs", last_response_path())
        branches, tags = ({ref.name: ref.target_commit for ref in refs} for refs in (found.branches, found.tags))
        return REFS.validate_python(Refs(name[1] if name else repo, branches, tags))._asdict()


def _repos(author: str, search: str) -> list[str]:
    with _malformed_as_transient():
        return [model.id for model in HfApi().list_models(author=author, search=search or None)]


def _tree(repo: str, commit: str) -> tuple[TreeEntry, ...]:
    with _malformed_as_transient():
        return tuple(
            TreeEntry(path=file.path, size=file.size, oid=file.blob_id, sha256=file.lfs.sha256 if file.lfs else None)
            for file in HfApi().list_repo_tree(repo, revision=commit, recursive=True)
            if isinstance(file, RepoFile)
        )


def _cached_tree(note: Path) -> tuple[TreeEntry, ...]:
    """Empty where there is none, or none that can be understood: it is asked for again."""
    try:
        return TREE.validate_json(note.read_bytes())
    except (FileNotFoundError, ValidationError):
        return ()


def _checked(repo: str, commit: str, entry: TreeEntry) -> bytes:
    url = hf_hub_url(repo, entry.path, revision=commit)
    answer = get_session().get(url, headers=build_hf_headers())
    hf_raise_for_status(answer)
    data = answer.content
    blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    if entry.sha256 != hashlib.sha256(data).hexdigest() and entry.oid != blob:
        raise TransientError("sends damaged bytes")
    return data


def _is_access_denied(repo: str, commit: str) -> bool:
    try:
        HfApi().get_hf_file_metadata(url=hf_hub_url(repo, "config.json", revision=commit))
    except errors.GatedRepoError:
        return True
    except errors.RemoteEntryNotFoundError:
        return False
    return False


def _token_key() -> str:
    """Tells one token from another without showing it; of nobody the same each time."""
    return hashlib.blake2b((get_token() or "").encode(), salt=b"shapelake", digest_size=16).hexdigest()


def _ask_or_cached(key: list[str], asked: str, ask: Callable[[], Any]) -> Any:
    """What `ask` gives now; offline, what it gave the last time."""
    note = cache.folder("hub/latest") / digest_json([constants.ENDPOINT, *key])
    if not constants.is_offline_mode():
        answer = call_with_retries(asked, ask)
        cache.write_atomic(note, canonical_json(answer).encode())
        return answer
    try:
        return json.loads(note.read_bytes())
    except FileNotFoundError:
        raise UsageError(
            asked, "HF_HUB_OFFLINE is set, and it was never asked before", "Unset HF_HUB_OFFLINE once"
        ) from None


def _read_or_make(place: Path, make: Callable[[], bytes]) -> bytes:
    """The bytes at `place`, made and put there the first time."""
    try:
        return place.read_bytes()
    except FileNotFoundError:
        data = make()
        cache.write_atomic(place, data)
        return data
