"""Branches, tags and subfolders of a Hub repo as candidate checkpoints, with the training points in their names."""

import re
from collections.abc import Iterable
from typing import NamedTuple

from pipeline.catalog import hub_client
from pipeline.catalog.checkpoint_files import CONFIG_FILE
from pipeline.catalog.families import Family, find_family
from pipeline.catalog.hub_client import Refs, TreeEntry
from pipeline.catalog.hub_tree import find_folders_with
from pipeline.catalog.revision_names import TrainingPoint, has_enough_parsed_names
from pipeline.catalog.revisions import EMPTY_POINT
from pipeline.errors import UsageError

MAIN = "main"
COMMIT = re.compile(r"[0-9a-f]{40}")


class Repo(NamedTuple):
    """Refs of a Hub repo, and the family whose rules parse its names."""

    refs: Refs
    family: Family
    catalog_id: str
    """The canonical or the requested id, whichever the catalogue lists; the canonical id if it lists neither."""
    requested_id: str
    """Id that was requested; it differs from the canonical id if the repo was renamed."""

    @property
    def model(self) -> str:
        """Name of the model whose history, or part of it, is in this repo."""
        return self.family.model_of(self.catalog_id) if self.family.where == "repos" else self.refs.repo


class RevisionRef(NamedTuple):
    """Branch, tag, commit or subfolder of a repo that may be a checkpoint."""

    repo: Repo
    name: str
    commit: str
    training_point: TrainingPoint | None
    """Training point in the name; None if the name does not state it."""
    subfolder: str = ""


def open_repo(repo: str) -> Repo:
    """Fetch a repo's refs in one request, and find its family.

    Raises:
        UsageError: the repo does not exist, or its family cannot be measured.
    """
    refs = hub_client.fetch_refs(repo)
    catalog_id = next((name for name in (refs.repo, repo) if not find_family(name).is_generic), refs.repo)
    family = find_family(catalog_id)
    if family.unloadable:
        raise UsageError(f"checkpoints of {repo}", family.unloadable, "Remove it from the list of checkpoints")
    return Repo(refs, family, catalog_id, repo)


def list_revision_refs(repo: Repo) -> list[RevisionRef]:
    """Return `main` and every branch or tag that may be a checkpoint; only `main` if `where` is subfolders or repos.

    If the catalogue does not list the repo and too few of its names can be parsed, all refs but `main` have no training
    point.
    """
    if repo.family.where == "repos":
        return [resolve_ref(repo, MAIN)] if MAIN in repo.refs.branches else []
    names = [name for name in _names(repo) if not repo.family.skips(name)]
    trusted = not repo.family.is_generic or has_enough_parsed_names(names)
    refs = [resolve_ref(repo, name) for name in names]
    main = [resolve_ref(repo, MAIN)] if MAIN in repo.refs.branches else []
    return main + [ref if trusted else ref._replace(training_point=None) for ref in refs]


def list_skipped_names(repo: Repo) -> tuple[str, ...]:
    """Return the names that are known not to be checkpoints."""
    return tuple(sorted(name for name in _names(repo) if repo.family.skips(name)))


def resolve_ref(repo: Repo, name: str) -> RevisionRef:
    """Return the ref of a branch, a tag or a commit, with its commit and training point.

    Raises:
        UsageError: the repo has no such branch or tag.
    """
    own_name = repo.catalog_id.split("/")[-1]
    if repo.family.where == "repos" and name in (MAIN, own_name):
        return RevisionRef(repo, own_name, _commit(repo, MAIN), repo.family.parse_name(repo.catalog_id, own_name))
    point = repo.family.parse_name(repo.catalog_id, name)
    return RevisionRef(repo, name, _commit(repo, name), point or EMPTY_POINT if name == MAIN else point)


def find_ref_name(repo: Repo, revision: str) -> str:
    """Return the branch or tag whose commit is `revision`, else `revision` unchanged."""
    refs = repo.refs.branches | repo.refs.tags
    return next((name for name, commit in refs.items() if commit == revision), revision)


def list_subfolder_refs(main: RevisionRef, entries: Iterable[TreeEntry]) -> list[RevisionRef]:
    """Return one ref per subfolder with a config.json, after `main` itself if it has a config.json too.

    Args:
        entries: the tree of the commit of `main`.
    """
    entries, repo = tuple(entries), main.repo
    folders = find_folders_with(entries, CONFIG_FILE)
    points = {name: repo.family.parse_name(repo.catalog_id, name) for name in folders if not repo.family.skips(name)}
    root = [main] if any(entry.path == CONFIG_FILE for entry in entries) else []
    return root + [RevisionRef(repo, name, main.commit, point, name) for name, point in points.items()]


def _names(repo: Repo) -> list[str]:
    """Return the names of the branches, the tags or both, as the family's `where` says, without `main`."""
    _, branches, tags = repo.refs
    refs = {"branches": branches, "tags": tags, "branches-and-tags": tags | branches}
    return [name for name in refs.get(repo.family.where, {}) if name != MAIN]


def _commit(repo: Repo, name: str) -> str:
    _, branches, tags = repo.refs
    commit = (branches | tags if repo.family.where == "tags" else tags | branches).get(name)
    if commit is None and not COMMIT.fullmatch(name):
        do = f"List the checkpoints with shapelake catalog {repo.refs.repo}"
        raise UsageError(f"checkpoint {repo.refs.repo}@{name}", "no such branch or tag", do)
    return commit or name
