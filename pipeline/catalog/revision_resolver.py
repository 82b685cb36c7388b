"""Resolution of Hub refs to revisions. Trees are fetched in parallel, then each distinct small file is fetched once."""

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Event
from typing import TypeVar

from pipeline.catalog import checkpoint_files, hub_client
from pipeline.catalog.checkpoint_files import CheckpointFiles, LocalFolder, is_tokenizer_file, list_tokenizer_files
from pipeline.catalog.checkpoint_metadata import build_checkpoint_fields, put_on_base
from pipeline.catalog.digests import FileHashes, base_digests, list_measured_files
from pipeline.catalog.hub_client import Commit, TreeEntry
from pipeline.catalog.hub_http import wait_silently
from pipeline.catalog.hub_limits import RATE_LIMIT
from pipeline.catalog.hub_refs import MAIN, RevisionRef, list_subfolder_refs
from pipeline.catalog.hub_tree import HubFolder
from pipeline.catalog.revisions import EMPTY_POINT, FINAL_ORDER, UNKNOWN_ORDER, Revision
from pipeline.errors import NotFoundError, UsageError
from pipeline.progress import Progress
from pipeline.spec import Checkpoint, RemoteFiles

PARALLEL_REQUESTS = 8
"""Number of concurrent requests. It is small because of the Hub's rate limit: listing 20 Pythia models takes 3,080
requests if none is cached."""

TELL_EVERY_S = 1.0
"""Interval in seconds at which the progress display is updated while no request is answered."""

T = TypeVar("T")
R = TypeVar("R")


class RevisionResolver:
    """Resolver of refs to revisions, with caches that all repos of one discovery share."""

    def __init__(self) -> None:
        self._tokenizers: dict[str, CheckpointFiles] = {}
        self._trees: dict[Commit, tuple[TreeEntry, ...]] = {}
        self._shas: dict[str, str] = {}
        self._access_denied: dict[str, bool] = {}
        self._missing_commits: set[Commit] = set()

    def fetch_trees(self, refs: Iterable[RevisionRef], label: str) -> None:
        """Fetch those trees of the refs' commits that the cache on disk lacks, with one request per commit.

        After an interrupted call, the next call fetches only the trees that are still missing.
        """

        def fetch(commit: Commit) -> None:
            self._tree(commit)  # only cached on disk: the trees of many repos would fill the memory

        map_in_parallel(fetch, hub_client.uncached_trees(list_commits(refs)), label, "requests")

    def expand_subfolders(self, refs: Sequence[RevisionRef], label: str) -> list[RevisionRef]:
        """Load the trees of all refs with a training point, and return the refs.

        If the checkpoints of a repo are subfolders, its ref is replaced by one ref per subfolder. The trees that an
        earlier call loaded are dropped.
        """
        commits = list_commits(refs)
        self._trees = dict(zip(commits, map_in_parallel(self._tree, commits, label, "trees"), strict=True))
        return [inner for ref in refs for inner in self._expand(ref)]

    def _tree(self, commit: Commit) -> tuple[TreeEntry, ...]:
        """Return the tree of a commit; empty if the repo no longer has the commit (huggingface_hub#3406)."""
        if commit in self._missing_commits:
            return ()
        try:
            return hub_client.fetch_tree(*commit)
        except NotFoundError:
            self._missing_commits.add(commit)
            return ()

    def resolve(
        self, model: str, ref: RevisionRef, tokenizer: str | None = None, base: Checkpoint | None = None
    ) -> Revision:
        """Return the revision of a ref whose tree was loaded by `expand_subfolders`.

        Args:
            tokenizer: repo or folder that overrides the family's tokenizer.
            base: model into which an adapter without whole weights is merged.
        """
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
        return self._resolve_files(model, ref, revision, tokenizer, base)

    def _is_access_denied(self, ref: RevisionRef) -> bool:
        repo = ref.repo.refs.repo
        if repo not in self._access_denied:
            self._access_denied[repo] = hub_client.is_access_denied(repo, ref.commit)
        return self._access_denied[repo]

    def _resolve_files(
        self, model: str, ref: RevisionRef, revision: Revision, override: str | None, base: Checkpoint | None
    ) -> Revision:
        files = HubFolder(*_commit(ref), self._trees[_commit(ref)], self._shas, ref.subfolder)
        base = base if base and checkpoint_files.is_adapter_alone(files) else None
        pickles = ref.repo.family.weights == "bin"
        if reason := checkpoint_files.unloadable_reason(files, pickles, has_base=base is not None):
            return replace(revision, state="NO_WEIGHTS", state_reason=reason)
        tokenizer = self._tokenizer(ref, override) or files
        try:
            hashes = FileHashes.from_files(files, tokenizer, base and base_digests(base))
            checkpoint = _checkpoint(model, ref, files, tokenizer, hashes)
            if base:
                own_tokenizer = tokenizer is not files or checkpoint_files.has_tokenizer(files)
                checkpoint = _fetch_tokenizer_of(base, put_on_base(checkpoint, base, own_tokenizer), own_tokenizer)
            return replace(revision, weight_hashes=hashes.weights, checkpoint=checkpoint)
        except NotFoundError as error:
            return replace(revision, state="NO_WEIGHTS", state_reason=f"listed, but {error.found}: {error.asked}")

    def _tokenizer(self, ref: RevisionRef, override: str | None) -> CheckpointFiles | None:
        """Return the files of the tokenizer that the user or the family names; None if the checkpoint's own files are
        used."""
        name = override or ref.repo.family.tokenizer_for(ref.repo.catalog_id)
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
    """Return the results of `call(item)` for all items, in the order of the items.

    The calls run in PARALLEL_REQUESTS threads. The first error is raised, and the calls that have not started are then
    cancelled.

    Args:
        label: name of the work in the progress display.
        unit: plural name of the items in the progress display.
    """
    finished: SimpleQueue[Future[R]] = SimpleQueue()
    stop = Event()
    with (
        Progress(label, len(items), unit) as progress,
        ThreadPoolExecutor(PARALLEL_REQUESTS, initializer=wait_silently, initargs=(stop,)) as pool,
    ):
        futures = [pool.submit(call, item) for item in items]
        try:
            for future in futures:
                future.add_done_callback(finished.put)
            _follow(finished, len(items), progress)
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)
    return [future.result() for future in futures]


def _follow(finished: SimpleQueue[Future[R]], total: int, progress: Progress) -> None:
    """Show progress until `total` futures are done, with rate-limit waits and the expected end; raise the first
    error."""
    start = time.monotonic()
    while progress.done < total:
        try:
            finished.get(timeout=TELL_EVERY_S).result()
            finished_one = 1
        except Empty:
            finished_one = 0
        done = progress.done + finished_one
        progress.note = RATE_LIMIT.describe_rest(start, done, total)
        progress.advance(finished_one)


def _why_unparsed(ref: RevisionRef) -> str:
    if ref.repo.family.parse_name(ref.repo.catalog_id, ref.name) is None:
        return "the name does not state a training step"
    return "too few names of this repo state a training step for the general rule to apply"


def _checkpoint(
    model: str, ref: RevisionRef, files: HubFolder, tokenizer: CheckpointFiles, hashes: FileHashes
) -> Checkpoint:
    own = list_tokenizer_files(files) if tokenizer is files else ()
    weights, config = list_measured_files(files, hashes.base is not None)
    family = ref.repo.family
    return Checkpoint(
        model=model,
        revision=ref.name,
        path="",
        tokenizer_path=tokenizer.location if isinstance(tokenizer, LocalFolder) else "",
        remote=files.to_remote((*config, *weights, *own)),
        tokenizer_remote=None if tokenizer is files else _remote(tokenizer),
        family=None if family.is_generic else family.name,
        commit_sha=ref.commit,
        **build_checkpoint_fields(files, hashes, ref.training_point or EMPTY_POINT),
    )


def _fetch_tokenizer_of(base: Checkpoint, checkpoint: Checkpoint, own_tokenizer: bool) -> Checkpoint:
    """Return the checkpoint with the tokenizer files of its base model as files to download, if it has none itself."""
    remote = None if own_tokenizer or base.tokenizer_remote else base.remote
    if remote is None:
        return checkpoint
    files = tuple(file for file in remote.files if is_tokenizer_file(file.path))
    return checkpoint.model_copy(update={"tokenizer_remote": remote.model_copy(update={"files": files})})


def _remote(tokenizer: CheckpointFiles) -> RemoteFiles | None:
    return tokenizer.to_remote(list_tokenizer_files(tokenizer)) if isinstance(tokenizer, HubFolder) else None


def list_commits(refs: Iterable[RevisionRef]) -> list[Commit]:
    """Return the distinct commits of the refs with a training point."""
    return list(dict.fromkeys(_commit(ref) for ref in refs if ref.training_point is not None))


def _commit(ref: RevisionRef) -> tuple[str, str]:
    return ref.repo.refs.repo, ref.commit
