"""Discovery of histories on the Hugging Face Hub.

One request per repo fetches its refs (branches and tags), and one request per commit that is not cached fetches its
tree (list of files). The names of branches, tags or subfolders are parsed by the rules of the repo's family. The tree
of a commit has the sha256 of every weight file; config and tokenizer files are small and are downloaded.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from os.path import commonprefix

from pipeline.catalog import hub_client, hub_refs
from pipeline.catalog.families import Family, get_family, load_families
from pipeline.catalog.hub_refs import MAIN, Repo, RevisionRef, find_ref_name, list_revision_refs, open_repo, resolve_ref
from pipeline.catalog.revision_resolver import RevisionResolver, map_in_parallel
from pipeline.catalog.revisions import EMPTY_POINT, History
from pipeline.errors import NotFoundError, UsageError
from pipeline.progress import track
from pipeline.sources import matches_model
from pipeline.spec import Checkpoint, Hub, Members


@dataclass(frozen=True)
class SourceRepos:
    """A source on the Hub, and its repos with their refs."""

    source: Hub | Members
    repos: dict[str, Repo | None]
    """Opened repo by requested id; None if the repo is a member of a family but does not exist on the Hub."""

    @cached_property
    def refs(self) -> list[RevisionRef]:
        return [ref for repo in self.repos.values() if repo for ref in list_revision_refs(repo)]

    def split_by_model(self) -> list["SourceRepos"]:
        """Return one SourceRepos per model; a repo that does not exist on the Hub counts as a model of its own."""
        by_model: dict[str, dict[str, Repo | None]] = {}
        for name, repo in self.repos.items():
            by_model.setdefault(repo.model if repo else name, {})[name] = repo
        return [SourceRepos(self.source, repos) for repos in by_model.values()]


def open_sources(sources: Sequence[Hub | Members], models: str) -> list[SourceRepos]:
    """Fetch the refs of the repos of each source: one repo, or those members of a family that match the glob `models`.

    Raises:
        UsageError: a repo or family does not exist or cannot be measured.
        FetchError: the Hub did not answer.
    """
    ids = [_requested_repos(source, models) for source in sources]
    required = {repo for source, repos in zip(sources, ids, strict=True) if isinstance(source, Hub) for repo in repos}
    names = list(dict.fromkeys(repo for repos in ids for repo in repos))
    open_one = lambda name: open_repo(name) if name in required else _open_if_present(name)  # noqa: E731
    opened = map_in_parallel(open_one, names, f"Listing {_label(sources)}", "repos")
    repos = dict(zip(names, opened, strict=True))
    return [SourceRepos(source, {name: repos[name] for name in own}) for source, own in zip(sources, ids, strict=True)]


def read_histories(opened: Sequence[SourceRepos], bases: Mapping[str, Checkpoint]) -> list[tuple[History, ...]]:
    """Return one tuple of histories per opened source.

    Args:
        bases: base models of adapters, by the names in the sources.

    The trees of all commits of all sources are fetched first, so that the progress display knows the number of
    requests.
    """
    resolver = RevisionResolver()
    label = f"Listing the files of {_label([one.source for one in opened])}"
    resolver.fetch_trees([ref for one in opened for ref in one.refs], label)
    return [_source_histories(one, resolver, bases) for one in opened]


def _label(sources: Sequence[Hub | Members]) -> str:
    return sources[0].name if len(sources) == 1 else f"{len(sources)} sources"


def _source_histories(
    opened: SourceRepos, resolver: RevisionResolver, bases: Mapping[str, Checkpoint]
) -> tuple[History, ...]:
    source = opened.source
    name, tokenizer = (source.model, source.tokenizer) if isinstance(source, Hub) else (None, None)
    base = bases.get(source.base or "") if isinstance(source, Hub) else None
    by_model: dict[str, list[Repo]] = {}
    for repo in filter(None, opened.repos.values()):
        by_model.setdefault(repo.model, []).append(repo)
    histories = [_history(name or model, group, resolver, tokenizer, base) for model, group in by_model.items()]
    absent = [id_ for id_, repo in opened.repos.items() if repo is None]
    return (*histories, *(History(id_, (), family_name=source.name, missing_on_hub=True) for id_ in absent))


def resolve_checkpoint(source: Hub, revision: str, base: Checkpoint | None) -> Checkpoint:
    """Return the checkpoint of a branch, a tag, a subfolder or a commit; an adapter is merged into `base`."""
    repo, resolver = open_repo(source.hub), RevisionResolver()
    revision = find_ref_name(repo, revision)
    is_folder = repo.family.where == "subfolders" and revision not in repo.refs.branches | repo.refs.tags
    ref = resolve_ref(repo, MAIN if is_folder else revision)
    ref = ref._replace(training_point=ref.training_point or EMPTY_POINT)
    expanded = resolver.expand_subfolders([ref], f"Reading {repo.model}")
    match = next((inner for inner in expanded if inner.name == (revision if is_folder else ref.name)), None)
    asked, listed = f"checkpoint {source.hub}@{revision}", f"shapelake catalog {source.hub}"
    if match is None:
        raise UsageError(asked, "no such checkpoint", f"List the checkpoints with {listed}")
    match = match._replace(training_point=match.training_point or EMPTY_POINT)
    resolved = resolver.resolve(source.model or repo.model, match, source.tokenizer, base)
    if resolved.checkpoint is None:
        found = resolved.state_reason or resolved.state
        raise UsageError(asked, found, f"Choose another revision from the list that {listed} prints")
    return resolved.checkpoint


def list_member_repos(family: Family) -> tuple[str, ...]:
    """Return the repo ids of a family.

    Ids with a *, and families whose checkpoints are repos, need one listing request per owner.
    """
    if family.where == "repos":
        return tuple(repo for repo in _search_hub(family.expanded_ids) if family.claims(repo))
    return (*family.list_repos(), *(repo for repo in _search_hub(family.repo_patterns) if family.claims(repo)))


def _requested_repos(source: Hub | Members, models: str) -> Sequence[str]:
    if isinstance(source, Hub):
        return _repos_per_checkpoint(source.hub) or (source.hub,)
    family = get_family(source.family)
    members = list_member_repos(family)
    wanted = [repo for repo in members if _is_wanted(family, repo, source.models)]
    if not wanted:
        found = f"it matches none of {', '.join(members[:3])} ..." if members else "the Hub lists none"
        do = f"Give a glob that matches a model of shapelake catalog {family.name}"
        raise UsageError(f"models {source.models!r} of {family.name}", found, do)
    return [repo for repo in wanted if _is_wanted(family, repo, models)]


def _repos_per_checkpoint(model: str) -> tuple[str, ...]:
    """Return the repos of a model that has one repo per checkpoint, the final model last; empty for other models."""
    for family in load_families():
        if family.where == "repos" and model in map(family.model_of, family.expanded_ids):
            listed = _search_hub(family.expanded_ids)
            steps = tuple(repo for repo in listed if family.claims(repo) and family.model_of(repo) == model)
            return (*steps, *(repo for repo in listed if repo == model))
    return ()


def _is_wanted(family: Family, repo: str, models: str) -> bool:
    return any(matches_model(name, models) for name in (repo, family.model_of(repo)))


def _open_if_present(repo: str) -> Repo | None:
    # A missing member of a family must not make the other members fail.
    try:
        return open_repo(repo)
    except NotFoundError:
        return None


def _search_hub(patterns: Iterable[str]) -> list[str]:
    """Return the repos on the Hub whose ids contain the common prefix of an owner's patterns; one request per owner."""
    prefixes: dict[str, list[str]] = {}
    for pattern in patterns:
        owner, name = pattern.split("/")
        prefixes.setdefault(owner, []).append(name.split("*")[0])
    common = {owner: commonprefix(names) for owner, names in prefixes.items()}  # noqa: RUF071
    return [repo for owner, prefix in common.items() for repo in hub_client.list_model_ids(owner, prefix)]


def _history(
    model: str, repos: Sequence[Repo], resolver: RevisionResolver, tokenizer: str | None, base: Checkpoint | None
) -> History:
    refs = [ref for repo in repos for ref in list_revision_refs(repo)]
    expanded = resolver.expand_subfolders(refs, f"Reading {model}")
    tracked = track(expanded, f"Reading {model}", len(expanded), "revisions")
    revisions = [resolver.resolve(model, ref, tokenizer, base) for ref in tracked]
    first, ignored = repos[0], tuple(name for repo in repos for name in hub_refs.list_skipped_names(repo))
    formerly = first.requested_id if first.requested_id not in (first.refs.repo, model) else None
    revisions.sort(key=lambda revision: revision.sort_key)
    return History(model, tuple(revisions), ignored, first.family.name, formerly)
