"""What names on the Hub point at: trees read in parallel, then the small files, each content once."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from pipeline.catalog import hub_client
from pipeline.catalog.checkpoint_files import (
    CONFIG_FILE,
    CheckpointFiles,
    LocalFolder,
    has_tokenizer,
    list_tokenizer_files,
    list_weight_files,
    unloadable_reason,
)
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
"""Requests at once: the Hub counts them, and a first look at 20 models of Pythia takes 3,080."""

T = TypeVar("T")
R = TypeVar("R")


class RevisionResolver:
    """What one discovery reads of the Hub.

    Args:
        tokenizer: repo or folder in place of what the families say.
    """

    def __init__(self, tokenizer: str | None = None) -> None:
        self._asked = tokenizer
        self._tokenizers: dict[str, CheckpointFiles] = {}
        self._trees: dict[tuple[str, str], tuple[TreeEntry, ...]] = {}
        self._shas: dict[str, str] = {}
        self._access_denied: dict[str, bool] = {}
        self._missing_commits: set[tuple[str, str]] = set()

    def expand_subfolders(self, found: Sequence[RevisionRef], label: str) -> list[RevisionRef]:
        """Read the trees of all that has a place; pointers into sub-folders stand for the commits that hold them."""
        commits = dict.fromkeys(_commit(one) for one in found if one.training_point is not None)
        trees = map_in_parallel(self._tree, list(commits), label, "trees")
        self._trees |= dict(zip(commits, trees, strict=True))
        return [inner for one in found for inner in self._inner(one)]

    def _tree(self, commit: tuple[str, str]) -> tuple[TreeEntry, ...]:
        """Nothing, and remembered as lost, where refs were staler than the repo (huggingface_hub#3406)."""
        try:
            return hub_client.fetch_tree(*commit)
        except NotFoundError:
            self._missing_commits.add(commit)
            return ()

    def resolve(self, model: str, found: RevisionRef) -> Revision:
        """What `found` points at; of a tree that was read."""
        family = found.repo.family
        order = (
            UNKNOWN_ORDER
            if found.training_point is None
            else FINAL_ORDER
            if found.training_point == EMPTY_POINT
            else (0, family.sort_key(found.training_point))
        )
        bad = family.known_bad_for(found.repo.catalog_id, found.name)
        seen = Revision(found.name, found.training_point or EMPTY_POINT, order, found.commit, known_bad=bad)
        if found.training_point is None:
            return replace(seen, state="UNPARSED", state_reason=_why_unparsed(found))
        if _commit(found) in self._missing_commits:
            return replace(seen, state="NO_WEIGHTS", state_reason="the Hub names a commit that it does not have")
        if self._is_access_denied(found):
            return replace(seen, state="GATED", state_reason="gated, and access is not granted")
        return self._resolve_files(model, found, seen)

    def _is_access_denied(self, found: RevisionRef) -> bool:
        repo = found.repo.refs.repo
        if repo not in self._access_denied:
            self._access_denied[repo] = hub_client.is_access_denied(repo, found.commit)
        return self._access_denied[repo]

    def _resolve_files(self, model: str, found: RevisionRef, seen: Revision) -> Revision:
        files = HubFolder(*_commit(found), self._trees[_commit(found)], self._shas, found.subfolder)
        if why := unloadable_reason(files, pickles=found.repo.family.weights == "bin"):
            return replace(seen, state="NO_WEIGHTS", state_reason=why)
        tokenizer = self._tokenizer(found) or files
        try:
            content = FileHashes.from_files(files, tokenizer)
            return replace(
                seen, weight_hashes=content.weights, checkpoint=_checkpoint(model, found, files, tokenizer, content)
            )
        except NotFoundError as error:
            return replace(seen, state="NO_WEIGHTS", state_reason=f"listed, but {error.found}: {error.asked}")

    def _tokenizer(self, found: RevisionRef) -> CheckpointFiles | None:
        """Null = the checkpoint's own."""
        name = self._asked or found.repo.family.tokenizer_for(found.repo.catalog_id)
        if name and name not in self._tokenizers:
            self._tokenizers[name] = self._tokenizer_at(name)
        return self._tokenizers[name] if name else None

    def _tokenizer_at(self, name: str) -> CheckpointFiles:
        """The files of the tokenizer in a folder, or in the `main` of a repo."""
        files = LocalFolder(Path(name)) if Path(name).is_dir() else self._main(name)
        if not has_tokenizer(files):
            raise UsageError(f"tokenizer {name}", "no tokenizer files", "Name a repo or a folder that has them")
        return files

    def _main(self, repo: str) -> HubFolder:
        refs = hub_client.fetch_refs(repo)
        if MAIN not in refs.branches:
            raise UsageError(f"tokenizer {repo}", f"no branch {MAIN}", "Name another repo or a folder")
        commit = refs.branches[MAIN]
        return HubFolder(refs.repo, commit, hub_client.fetch_tree(refs.repo, commit), self._shas)

    def _inner(self, found: RevisionRef) -> list[RevisionRef]:
        has_subfolders = found.repo.family.where == "subfolders" and not found.subfolder
        return list_subfolder_refs(found, self._trees[_commit(found)]) if has_subfolders else [found]


def map_in_parallel(call: Callable[[T], R], items: Sequence[T], label: str, unit: str) -> list[R]:
    """`call` of each item, in their order; the first failure ends it."""
    with Progress(label, len(items), unit) as progress, ThreadPoolExecutor(PARALLEL_REQUESTS) as pool:
        waiting = [pool.submit(call, item) for item in items]
        try:
            for done in as_completed(waiting):
                done.result()
                progress.advance(1)
        finally:
            pool.shutdown(cancel_futures=True)
    return [done.result() for done in waiting]


def _why_unparsed(found: RevisionRef) -> str:
    if found.repo.family.parse_name(found.repo.catalog_id, found.name) is None:
        return "its name does not say where in training it stands"
    return "too few names of this repo say a step for the general rule to be believed"


def _checkpoint(
    model: str, found: RevisionRef, files: HubFolder, tokenizer: CheckpointFiles, content: FileHashes
) -> Checkpoint:
    own = list_tokenizer_files(files) if tokenizer is files else ()
    family = found.repo.family
    return Checkpoint(
        model=model,
        revision=found.name,
        path="",
        tokenizer_path=tokenizer.location if isinstance(tokenizer, LocalFolder) else "",
        remote=files.to_remote((CONFIG_FILE, *list_weight_files(files), *own)),
        tokenizer_remote=None if tokenizer is files else _remote(tokenizer),
        family=None if family.is_generic else family.name,
        commit_sha=found.commit,
        **build_checkpoint_fields(files, content, found.training_point or EMPTY_POINT),
    )


def _remote(tokenizer: CheckpointFiles) -> RemoteFiles | None:
    return tokenizer.to_remote(list_tokenizer_files(tokenizer)) if isinstance(tokenizer, HubFolder) else None


def _commit(found: RevisionRef) -> tuple[str, str]:
    return found.repo.refs.repo, found.commit
