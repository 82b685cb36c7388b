"""Client of the Hugging Face Hub for listings and small files. Answers that cannot change are cached without expiry.

With HF_HUB_OFFLINE, answers come from this cache or, if absent there, from snapshots in the cache of huggingface_hub.
HF_ENDPOINT, HF_HOME, HF_TOKEN and HF_HUB_OFFLINE have the same meaning as in huggingface_hub.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Annotated, Any, NamedTuple

from huggingface_hub import HfApi, constants, errors, get_session, get_token, hf_hub_url
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status
from pydantic import Field, TypeAdapter, ValidationError

from pipeline import cache
from pipeline.catalog import hf_cache
from pipeline.catalog.hub_http import TransientError, call_with_retries, last_response_path
from pipeline.errors import UsageError
from pipeline.strict_model import SafeRelativePath, StrictModel, canonical_json, digest_json


class Refs(NamedTuple):
    """Branches and tags of a repository, each as a dict from name to commit."""

    repo: str
    """Canonical id; differs from the requested id if the repository was renamed."""
    branches: dict[str, str]
    tags: dict[str, str]


class TreeEntry(StrictModel):
    """File in the tree of a commit."""

    path: SafeRelativePath
    size: int
    oid: Annotated[str, Field(pattern=r"^[0-9a-f]{40,64}$")]
    """Id of the file's git blob or, for an LFS file, of the blob of its pointer. Files with equal bytes have equal ids.
    The cache stores a file under its id."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None
    """sha256 of an LFS file's bytes; None for other files. Weights are LFS files."""


Commit = tuple[str, str]
"""Repository id and commit id."""

REFS, TREE = TypeAdapter(Refs), TypeAdapter(tuple[TreeEntry, ...])


def fetch_refs(repo: str) -> Refs:
    """Return the branches and tags of a repository, with one request.

    With HF_HUB_OFFLINE, the last cached answer is returned or, if there is none, the refs of the snapshots in the cache
    of huggingface_hub.

    Raises:
        FetchError: the Hub did not answer.
        UsageError: the repository does not exist, access is denied, or the client is offline without a cached answer.
    """
    asked, snapshots = f"refs of {repo}", lambda: _snapshot_refs(repo)
    return Refs(**_request_or_cached(["refs", repo], asked, lambda: _refs(repo), snapshots))


def list_model_ids(author: str, search: str = "") -> tuple[str, ...]:
    """Return the sorted ids of the author's models whose ids contain `search`.

    With HF_HUB_OFFLINE, the last cached answer is returned.

    Raises:
        FetchError, UsageError: for the same reasons as `fetch_refs`.
    """
    asked = f"models of {author} that contain {search!r}" if search else f"models of {author}"
    return tuple(sorted(_request_or_cached(["repos", author, search], asked, lambda: _repos(author, search))))


def uncached_trees(commits: Iterable[Commit]) -> list[Commit]:
    """Return the commits whose trees are not cached; `fetch_tree` needs one request for each."""
    cached = set(os.listdir(cache.folder("hub/trees")))
    return [commit for commit in commits if _tree_file(*commit) not in cached]


def fetch_tree(repo: str, commit: str) -> tuple[TreeEntry, ...]:
    """Return all files of a commit, those in subfolders included; the answer is cached without expiry.

    With HF_HUB_OFFLINE and no cached answer, the files are returned that the cache of huggingface_hub has of the
    commit.

    Raises:
        FetchError: the Hub did not answer.
        UsageError: the repository or commit does not exist.
    """
    path = cache.folder("hub/trees") / _tree_file(repo, commit)
    with suppress(FileNotFoundError, ValidationError):
        if cached := TREE.validate_json(path.read_bytes()):
            return cached
    if constants.is_offline_mode() and (found := hf_cache.list_snapshot_files(repo, commit)):
        return TREE.validate_python(found)  # not cached: files that were never fetched are absent
    entries = call_with_retries(f"files of {repo} at {commit}", lambda: _tree(repo, commit))
    if entries:  # every commit has files, so an empty answer is wrong and is not cached
        cache.write_atomic(path, canonical_json([entry.model_dump() for entry in entries]).encode())
    return entries


def fetch_small_file(repo: str, commit: str, entry: TreeEntry) -> bytes:
    """Return the bytes of a small file, after verifying them against `entry`; they are cached without expiry.

    Raises:
        FetchError: the Hub did not answer, or sent damaged bytes.
        UsageError: the repository is gated, or the file does not exist.
    """
    path = cache.folder("hub/files") / entry.oid
    try:
        return path.read_bytes()
    except FileNotFoundError:
        data = call_with_retries(f"{entry.path} of {repo} at {commit}", lambda: _checked(repo, commit, entry))
        cache.write_atomic(path, data)
        return data


def fetch_sha256(repo: str, commit: str, entry: TreeEntry) -> str:
    """Return the sha256 of a file: from the listing for an LFS file, else computed from the downloaded bytes."""
    return entry.sha256 or hashlib.sha256(fetch_small_file(repo, commit, entry)).hexdigest()


def is_access_denied(repo: str, commit: str) -> bool:
    """Return True if the repository is gated and the token has no access to its files.

    Listings of a gated repository are readable without access. A granted access is cached per token without expiry; a
    denied one is not cached. With HF_HUB_OFFLINE, the result is False.

    Raises:
        FetchError: the Hub did not answer.
        UsageError: the repository or commit does not exist.
    """
    token = hashlib.blake2b((get_token() or "").encode(), salt=b"shapelake", digest_size=16).hexdigest()  # irreversible
    granted = cache.folder("hub/open") / digest_json([constants.ENDPOINT, repo, token])
    if granted.exists() or constants.is_offline_mode():
        return False
    denied = call_with_retries(f"permission to read {repo}", lambda: _is_access_denied(repo, commit))
    if not denied:
        cache.write_atomic(granted, b"")
    return denied


@contextmanager
def _malformed_as_transient() -> Iterator[None]:
    """Raise TransientError if the library or our types cannot parse an answer inside the block."""
    try:
        yield
    except (LookupError, TypeError, AttributeError, UnicodeError, RecursionError, ValidationError) as error:
        raise TransientError("sent a malformed listing") from error


def _refs(repo: str) -> dict[str, Any]:
    with _malformed_as_transient():
        listed = HfApi().list_repo_refs(repo)
        name = re.fullmatch(r"/api/models/(.+)/refs", last_response_path())
        branches, tags = ({ref.name: ref.target_commit for ref in refs} for refs in (listed.branches, listed.tags))
        return REFS.validate_python(Refs(name[1] if name else repo, branches, tags))._asdict()


def _tree_file(repo: str, commit: str) -> str:
    return digest_json([repo, commit])


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


def _checked(repo: str, commit: str, entry: TreeEntry) -> bytes:
    data = hf_cache.read_snapshot_file(repo, commit, entry.path) if constants.is_offline_mode() else None
    if data is None:
        response = get_session().get(hf_hub_url(repo, entry.path, revision=commit), headers=build_hf_headers())
        hf_raise_for_status(response)
        data = response.content
    blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    if entry.sha256 != hashlib.sha256(data).hexdigest() and entry.oid != blob:
        raise TransientError("sent damaged bytes")
    return data


def _is_access_denied(repo: str, commit: str) -> bool:
    try:
        with suppress(errors.RemoteEntryNotFoundError):
            HfApi().get_hf_file_metadata(url=hf_hub_url(repo, "config.json", revision=commit))
    except errors.GatedRepoError:
        return True
    return False


def _snapshot_refs(repo: str) -> dict[str, Any] | None:
    """Return the refs that have a snapshot in huggingface_hub's cache, all as branches; None if there are none."""
    refs = hf_cache.list_snapshot_refs(repo)
    return Refs(repo, refs, {})._asdict() if refs else None


def _request_or_cached(
    key: list[str], asked: str, request: Callable[[], Any], snapshots: Callable[[], Any] = lambda: None
) -> Any:
    """Return the answer of `request`, and cache it; with HF_HUB_OFFLINE, return the last cached answer.

    If no answer is cached then, the result of `snapshots` is returned; UsageError if it is None too.
    """
    path = cache.folder("hub/latest") / digest_json([constants.ENDPOINT, *key])
    if not constants.is_offline_mode():
        answer = call_with_retries(asked, request)
        cache.write_atomic(path, canonical_json(answer).encode())
        return answer
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        if (answer := snapshots()) is not None:
            return answer
        found = "HF_HUB_OFFLINE is set, and neither the answer nor a snapshot is cached"
        do = "Unset HF_HUB_OFFLINE once to fill the cache, or copy the snapshots to $HF_HOME"
        raise UsageError(asked, found, do) from None
