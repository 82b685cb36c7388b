"""Resolution of Hub refs to revisions: trees are fetched in parallel, then small files, one request per content."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from pipeline.catalog import checkpoint_files, hub_client
from pipeline.catalog.checkpoint_files import CONFIG_FILE, CheckpointFiles, LocalFolder, list_tokenizer_files
from pipeline.catalog.checkpoint_metadata import build_checkpoint_fields
from pipeline.catalog.digests import FileHashes
from pipeline.catalog.hub_client import TreeEntry
from pipeline.catalog.hub_refs import MAIN, RevisionRef, list_subfolder_refs
from pipeline.catalog.hub_tree import HubFolder
from pipeline.catalog.revisions import EMPTY_POINT, FINAL_ORDER, UNKNOWN_ORDER, Revision
from pipeline.errors import NotFoundError, UsageError
from pipeline.progress import Progress
from pipeline.spec import Checkpoint, RemoteFiles

PARALLEL_REQUESTS = 8
"""Concurrent requests; limited because the Hub has rate limits, and a cold listing of 20 Pythia models takes 3,080."""

T = TypeVar("T")
R = TypeVar("R")


class RevisionResolver:
    """Resolver of refs to revisions, with the caches of one discovery.

    Args:
        tokenizer: repo or folder that overrides the families' tokenizers.
    """

    def __init__(self, tokenizer: str | None = None) -> None:
        self._tokenizer_override = tokenizer
        self._tokenizers: dict[str, CheckpointFiles] = {}
        self._trees: dict[tuple[str, str], tuple[TreeEntry, ...]] = {}
        self._shas: dict[str, str] = {}
        self._access_denied: dict[str, bool] = {}
        self._missing_commits: set[tuple[str, str]] = set()

    def expand_subfolders(self, refs: Sequence[RevisionRef], label: str) -> list[RevisionRef]:
        """Fetch the trees of all refs with a training point; replace refs of subfolder repos by their subfolders."""
        commits = dict.fromkeys(_commit(ref) for ref in refs if ref.training_point is not None)
        trees = map_in_parallel(self._tree, list(commits), label, "trees")
        self._trees |= dict(zip(commits, trees, strict=True))
        return [inner for ref in refs for inner in self._expand(ref)]

    def _tree(self, commit: tuple[str, str]) -> tuple[TreeEntry, ...]:
        """Return the tree; empty if refs name a commit that the repo no longer has (huggingface_hub#3406)."""
        try:
            return hub_client.fetch_tree(*commit)
        except NotFoundError:
            self._missing_commits.add(commit)
            return ()

    def resolve(self, model: str, ref: RevisionRef) -> Revision:
        """Return the revision of a ref whose tree was fetched by `expand_subfolders`."""
        family, point = ref.repo.family, ref.training_point or EMPTY_POINT
        order = FINAL_ORDER if point == EMPTY_POINT else (0, family.sort_key(point))
        issues = family.known_bad_for(ref.repo.catalog_id, ref.name)
        revision = Revision(ref.name, point, order, ref.commit, known_bad=issues)
        if ref.training_point is None:
            return replace(revision, training_order=UNKNOWN_ORDER, state="UNPARSED", state_reason=_why_unparsed(ref))
        if _commit(ref) in self._missing_commits:
            return replace(revision, state="NO_WEIGHTS", state_reason="the Hub does not have the commit that it lists")
        if self._is_access_denied(ref):
            return replace(revision, state="GATED", state_reason="gated, and access is not granted")
        return self._resolve_files(model, ref, revision)

    def _is_access_denied(self, ref: RevisionRef) -> bool:
        repo = ref.repo.refs.repo
        if repo not in self._access_denied:
            self._access_denied[repo] = hub_client.is_access_denied(repo, ref.commit)
        return self._access_denied[repo]

    def _resolve_files(self, model: str, ref: RevisionRef, revision: Revision) -> Revision:
        files = HubFolder(*_commit(ref), self._trees[_commit(ref)], self._shas, ref.subfolder)
        if reason := checkpoint_files.unloadable_reason(files, pickles=ref.repo.family.weights == "bin"):
            return replace(revision, state="NO_WEIGHTS", state_reason=reason)
        tokenizer = self._tokenizer(ref) or files
        try:
            hashes = FileHashes.from_files(files, tokenizer)
            checkpoint = _checkpoint(model, ref, files, tokenizer, hashes)
            return replace(revision, weight_hashes=hashes.weights, checkpoint=checkpoint)
        except NotFoundError as error:
            return replace(revision, state="NO_WEIGHTS", state_reason=f"listed, but {error.found}: {error.asked}")

    def _tokenizer(self, ref: RevisionRef) -> CheckpointFiles | None:
        """Return the files of a separate tokenizer; None if the checkpoint has its own."""
        name = self._tokenizer_override or ref.repo.family.tokenizer_for(ref.repo.catalog_id)
        if name and name not in self._tokenizers:
            self._tokenizers[name] = self._open_tokenizer(name)
        return self._tokenizers[name] if name else None

    def _open_tokenizer(self, name: str) -> CheckpointFiles:
        """Return the tokenizer files in a folder, or on the `main` branch of a repo."""
        files = LocalFolder(Path(name)) if Path(name).is_dir() else self._open_main(name)
        if not checkpoint_files.has_tokenizer(files):
            do = "Give a repo or folder with tokenizer.json or a vocabulary"
            raise UsageError(f"tokenizer {name}", "no tokenizer files", do)
        return files

    def _open_main(self, repo: str) -> HubFolder:
        refs = hub_client.fetch_refs(repo)
        if MAIN not in refs.branches:
            raise UsageError(f"tokenizer {repo}", f"no branch {MAIN}", f"Give a folder, or a repo with branch {MAIN}")
        commit = refs.branches[MAIN]
        return HubFolder(refs.repo, commit, hub_client.fetch_tree(refs.repo, commit), self._shas)

    def _expand(self, ref: RevisionRef) -> list[RevisionRef]:
        has_subfolders = ref.repo.family.where == "subfolders" and not ref.subfolder
        return list_subfolder_refs(ref, self._trees[_commit(ref)]) if has_subfolders else [ref]


def map_in_parallel(call: Callable[[T], R], items: Sequence[T], label: str, unit: str) -> list[R]:
    """Return `call(item)` for all items in order; the first failure cancels the calls that have not started."""
    with Progress(label, len(items), unit) as progress, ThreadPoolExecutor(PARALLEL_REQUESTS) as pool:
        futures = [pool.submit(call, item) for item in items]
        try:
            for future in as_completed(futures):
                future.result()
                progress.advance(1)
        finally:
            pool.shutdown(cancel_futures=True)
    return [future.result() for future in futures]


def _why_unparsed(ref: RevisionRef) -> str:
    if ref.repo.family.parse_name(ref.repo.catalog_id, ref.name) is None:
        return "the name does not state a training step"
    return "too few names of this repo state a training step for the general rule to apply"


def _checkpoint(
    model: str, ref: RevisionRef, files: HubFolder, tokenizer: CheckpointFiles, hashes: FileHashes
) -> Checkpoint:
    own = list_tokenizer_files(files) if tokenizer is files else ()
    family = ref.repo.family
    return Checkpoint(
        model=model,
        revision=ref.name,
        path="",
        tokenizer_path=tokenizer.location if isinstance(tokenizer, LocalFolder) else "",
        remote=files.to_remote((CONFIG_FILE, *checkpoint_files.list_weight_files(files), *own)),
        tokenizer_remote=None if tokenizer is files else _remote(tokenizer),
        family=None if family.is_generic else family.name,
        commit_sha=ref.commit,
        **build_checkpoint_fields(files, hashes, ref.training_point or EMPTY_POINT),
    )


def _remote(tokenizer: CheckpointFiles) -> RemoteFiles | None:
    return tokenizer.to_remote(list_tokenizer_files(tokenizer)) if isinstance(tokenizer, HubFolder) else None


def _commit(ref: RevisionRef) -> tuple[str, str]:
    return ref.repo.refs.repo, ref.commit
