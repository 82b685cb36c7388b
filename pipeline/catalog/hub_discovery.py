"""Histories on the Hugging Face Hub, by one refs request per repo and one tree per new commit.

The names of a repo's branches, tags or sub-folders become revisions by the rules of its family; what they point at
comes from the tree, which has the sha256 of every weight file, and from the small files beside it.
"""

from collections.abc import Iterable, Sequence
from os.path import commonprefix

from pipeline.catalog import hub_client
from pipeline.catalog.families import Family, get_family, load_families
from pipeline.catalog.hub_refs import (
    MAIN,
    Repo,
    RevisionRef,
    find_ref_name,
    list_revision_refs,
    list_skipped_names,
    open_repo,
    resolve_ref,
)
from pipeline.catalog.revision_resolver import RevisionResolver, map_in_parallel
from pipeline.catalog.revisions import EMPTY_POINT, History
from pipeline.errors import NotFoundError, UsageError
from pipeline.progress import Progress
from pipeline.sources import matches_model
from pipeline.spec import Checkpoint, Hub, Members


def discover_histories(source: Hub | Members, models: str) -> tuple[History, ...]:
    """The histories of a repo or of a family's members whose model matches the glob `models`."""
    asked = [repo for repo in _requested_repos(source) if isinstance(source, Hub) or _is_wanted(source, repo, models)]
    label = f"Asking for the names of {source.name}"
    if isinstance(source, Members):
        found = map_in_parallel(_opened_or_none, asked, label, "repos")
    else:
        found = map_in_parallel(open_repo, asked, label, "repos")
    repos = [repo for repo in found if repo is not None]
    absent = [repo for repo, seen in zip(asked, found, strict=True) if seen is None]
    name, tokenizer = (source.model, source.tokenizer) if isinstance(source, Hub) else (None, None)
    reading = RevisionResolver(tokenizer)
    by_model = {repo.model: [other for other in repos if other.model == repo.model] for repo in repos}
    histories = [_history(name or model, group, reading) for model, group in by_model.items()]
    return (*histories, *(History(repo, (), family_name=source.name, missing_on_hub=True) for repo in absent))


def resolve_checkpoint(source: Hub, revision: str) -> Checkpoint:
    """The checkpoint that a branch, a tag, a sub-folder or a commit points at."""
    repo, reading = open_repo(source.hub), RevisionResolver(source.tokenizer)
    revision = find_ref_name(repo, revision)
    is_folder = repo.family.where == "subfolders" and revision not in repo.refs.branches | repo.refs.tags
    at = resolve_ref(repo, MAIN if is_folder else revision)
    inner = reading.expand_subfolders(
        [at._replace(training_point=at.training_point or EMPTY_POINT)], f"Reading {repo.model}"
    )
    found = next((one for one in inner if one.name == (revision if is_folder else at.name)), None)
    if found is None:
        raise UsageError(
            f"checkpoint {source.hub}@{revision}", "no such checkpoint", "List them with shapelake catalog"
        )
    seen = reading.resolve(
        source.model or repo.model, found._replace(training_point=found.training_point or EMPTY_POINT)
    )
    if seen.checkpoint is None:
        raise UsageError(
            f"checkpoint {source.hub}@{revision}", seen.state_reason or seen.state, "Choose another revision"
        )
    return seen.checkpoint


def list_member_repos(one: Family) -> tuple[str, ...]:
    """Repo ids of a family; one request more where only the Hub knows which there are."""
    if one.where == "repos":
        return tuple(repo for repo in _search_hub(one.expanded_ids) if one.claims(repo))
    return (*one.list_repos(), *(repo for repo in _search_hub(one.repo_patterns) if one.claims(repo)))


def _requested_repos(source: Hub | Members) -> tuple[str, ...]:
    if isinstance(source, Hub):
        return _repos_per_checkpoint(source.hub) or (source.hub,)
    one = get_family(source.family)
    known = list_member_repos(one)
    found = tuple(
        repo for repo in known if any(matches_model(name, source.models) for name in (repo, one.model_of(repo)))
    )
    if not found:
        names = f"none of {', '.join(known[:3])} ..." if known else "the Hub lists none"
        raise UsageError(f"models {source.models!r} of {one.name}", names, "Give a glob that matches one")
    return found


def _repos_per_checkpoint(model: str) -> tuple[str, ...]:
    """The repos of a model whose checkpoints have one each, that of the final model last; empty for any other."""
    for one in load_families():
        if one.where == "repos" and model in map(one.model_of, one.expanded_ids):
            listed = _search_hub(one.expanded_ids)
            steps = tuple(repo for repo in listed if one.claims(repo) and one.model_of(repo) == model)
            return (*steps, *(repo for repo in listed if repo == model))
    return ()


def _is_wanted(source: Members, repo: str, models: str) -> bool:
    return any(matches_model(name, models) for name in (repo, get_family(source.family).model_of(repo)))


def _opened_or_none(repo: str) -> Repo | None:
    """None where the catalogue names a repo that is not there: one of many is no reason to leave out the others."""
    try:
        return open_repo(repo)
    except NotFoundError:
        return None


def _search_hub(patterns: Iterable[str]) -> list[str]:
    """What the Hub has of repos that are named like these: one request per owner."""
    starts: dict[str, list[str]] = {}
    for pattern in patterns:
        owner, name = pattern.split("/")
        starts.setdefault(owner, []).append(name.split("*")[0])
    return [repo for owner, names in starts.items() for repo in hub_client.list_model_ids(owner, commonprefix(names))]  # noqa: RUF071


def _history(model: str, repos: Sequence[Repo], reading: RevisionResolver) -> History:
    found: list[RevisionRef] = [one for repo in repos for one in list_revision_refs(repo)]
    inner = reading.expand_subfolders(found, f"Reading {model}")
    with Progress(f"Reading {model}", len(inner), "revisions") as progress:
        revisions = []
        for one in inner:
            revisions.append(reading.resolve(model, one))
            progress.advance(1)
    return History(
        model=model,
        revisions=tuple(sorted(revisions, key=lambda revision: revision.sort_key)),
        ignored_names=tuple(name for repo in repos for name in list_skipped_names(repo)),
        family_name=repos[0].family.name,
        formerly=repos[0].requested_id if repos[0].requested_id not in (repos[0].refs.repo, model) else None,
    )
