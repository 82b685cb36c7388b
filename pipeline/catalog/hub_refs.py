"""The names in a repo of the Hub: which of them are points of its history, and where in training each stands."""

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
    """A repo as its refs show it, and the family whose rules its names follow."""

    refs: Refs
    family: Family
    catalog_id: str
    """Its id in the family's table: the canonical one, or the one that was asked for."""
    requested_id: str
    """The id that was asked for: an older one where the repo was renamed."""

    @property
    def model(self) -> str:
        """The model whose history it holds, or a part of it."""
        return self.family.model_of(self.catalog_id) if self.family.where == "repos" else self.refs.repo


class RevisionRef(NamedTuple):
    """A name and the commit that it points at."""

    repo: Repo
    name: str
    commit: str
    training_point: TrainingPoint | None
    """Null = the name does not say."""
    subfolder: str = ""


def open_repo(repo: str) -> Repo:
    """The repo, in one request.

    Raises:
        UsageError: no such repo, or one of a family that cannot be measured.
    """
    refs = hub_client.fetch_refs(repo)
    known_as = next((name for name in (refs.repo, repo) if not find_family(name).is_generic), refs.repo)
    family = find_family(known_as)
    if family.unloadable:
        raise UsageError(f"checkpoints of {repo}", family.unloadable, "Leave it out")
    return Repo(refs, family, known_as, repo)


def list_revision_refs(repo: Repo) -> list[RevisionRef]:
    """`main` and every name that is, or may be, a point of the history; of sub-folders, only the commit they are in."""
    if repo.family.where == "repos":
        return [resolve_ref(repo, MAIN)] if MAIN in repo.refs.branches else []
    points = [name for name in _names(repo) if not repo.family.skips(name)]
    believed = not repo.family.is_generic or has_enough_parsed_names(points)
    found = [resolve_ref(repo, name) for name in points]
    main = [resolve_ref(repo, MAIN)] if MAIN in repo.refs.branches else []
    return main + [one if believed else one._replace(training_point=None) for one in found]


def list_skipped_names(repo: Repo) -> tuple[str, ...]:
    """Names that the family knows to be no points of the history."""
    return tuple(sorted(name for name in _names(repo) if repo.family.skips(name)))


def resolve_ref(repo: Repo, name: str) -> RevisionRef:
    """What the branch or tag `name` points at, or the commit of that name.

    Raises:
        UsageError: there is none.
    """
    own = repo.catalog_id.split("/")[-1]
    if repo.family.where == "repos" and name in (MAIN, own):
        return RevisionRef(repo, own, _commit(repo, MAIN), repo.family.parse_name(repo.catalog_id, own))
    place = repo.family.parse_name(repo.catalog_id, name)
    return RevisionRef(repo, name, _commit(repo, name), place or EMPTY_POINT if name == MAIN else place)


def find_ref_name(repo: Repo, revision: str) -> str:
    """The branch or tag that points at the commit `revision`, else `revision` as it is."""
    known = repo.refs.branches | repo.refs.tags
    return next((name for name, commit in known.items() if commit == revision), revision)


def list_subfolder_refs(main: RevisionRef, entries: Iterable[TreeEntry]) -> list[RevisionRef]:
    """The sub-folders with a config.json, and `main` itself where it is a checkpoint too."""
    entries, repo = tuple(entries), main.repo
    names = [name for name in find_folders_with(entries, CONFIG_FILE) if not repo.family.skips(name)]
    own = [main] if any(entry.path == CONFIG_FILE for entry in entries) else []
    return own + [
        RevisionRef(repo, name, main.commit, repo.family.parse_name(repo.catalog_id, name), name) for name in names
    ]


def _names(repo: Repo) -> list[str]:
    """Branches or tags but `main`, as the family has it."""
    of = {
        "branches": repo.refs.branches,
        "tags": repo.refs.tags,
        "branches-and-tags": repo.refs.tags | repo.refs.branches,
    }
    return [name for name in of.get(repo.family.where, {}) if name != MAIN]


def _commit(repo: Repo, name: str) -> str:
    _, branches, tags = repo.refs
    commit = (branches | tags if repo.family.where == "tags" else tags | branches).get(name)
    if COMMIT.fullmatch(name) and commit is None:
        return name
    if commit is None:
        raise UsageError(
            f"checkpoint {repo.refs.repo}@{name}", "no such branch or tag", "List them with shapelake catalog"
        )
    return commit
