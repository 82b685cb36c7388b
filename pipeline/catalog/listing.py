"""Rows of `shapelake catalog`: all families, the models of a family, or the checkpoints of a model."""

from collections.abc import Callable
from typing import Any

from pipeline.catalog.audit import RecordedRevisions, assign_states
from pipeline.catalog.discovery import discover_histories
from pipeline.catalog.families import Family, get_family, load_families
from pipeline.catalog.known_issues import list_active_issues
from pipeline.catalog.revisions import History
from pipeline.errors import UsageError
from pipeline.spec import Hub

CatalogRow = dict[str, Any]


def list_catalog(
    name: str | None = None, recorded: Callable[[str], RecordedRevisions] = lambda model: {}
) -> list[CatalogRow]:
    """Return one row per family, per model of the family `name`, or per checkpoint of the repo `name`.

    Checkpoints are in training order. The Hub is contacted only for a repo, and for a family with a * in its repo ids.

    Args:
        recorded: function from a model's name to the revisions that the lake has recorded; these determine the states.

    Raises:
        UsageError: the family or repo does not exist, or the Hub has no models or checkpoints of it.
        FetchError: the Hub did not answer.
    """
    if name is None:
        return [_family_row(family) for family in load_families()]
    if "/" not in name:
        return _require_rows(_model_rows(get_family(name)), f"models of {name}")
    histories = [assign_states(history, recorded(history.model)) for history in discover_histories(Hub(hub=name))]
    return _require_rows([row for history in histories for row in _checkpoint_rows(history)], f"checkpoints of {name}")


def _require_rows(rows: list[CatalogRow], asked: str) -> list[CatalogRow]:
    if not rows:
        raise UsageError(asked, "the Hub has none", "Choose a family from the list that shapelake catalog prints")
    return rows


def _family_row(family: Family) -> CatalogRow:
    models = None if family.repo_patterns else len(set(map(family.model_of, family.list_repos())))
    tiers = " ".join(dict.fromkeys(family.tiers.values()))
    return {
        **{"family": family.name, "models": models, "where": family.where, "tier": tiers, "kind": family.kind},
        **{"norm": family.norm, "unit": _unit(family), "gated": family.gated, "unloadable": family.unloadable},
        "source": family.source,
    }


def _model_rows(family: Family) -> list[CatalogRow]:
    repos = _members(family)
    models = {family.model_of(repo): repo for repo in reversed(repos)}
    return [
        {
            **{"model": model, "family": family.name, "tier": family.tier_of(repo)},
            "repos": sum(family.model_of(other) == model for other in repos),
            **{"tokenizer": family.tokenizer_for(repo), "gated": family.gated, "unloadable": family.unloadable},
        }
        for model, repo in reversed(models.items())
    ]


def _checkpoint_rows(history: History) -> list[CatalogRow]:
    first = {r.weights_digest: r.name for r in reversed(history.revisions) if r.weight_hashes}
    return [
        {
            **{"model": history.model, "revision": revision.name, "step": point.step},
            **{"tokens": point.tokens, "stage": point.stage, "run": point.run, "state": revision.state},
            "same_as": None if (other := first.get(revision.weights_digest)) == revision.name else other,
            "why": revision.state_reason
            or "; ".join(issue.description for issue in list_active_issues(revision, history.revisions))
            or None,
            "commit": revision.commit,
            "bytes": revision.checkpoint.download_bytes if revision.checkpoint else None,
            "rule": history.family_name,
        }
        for revision in history.revisions
        for point in [revision.training_point]
    ]


def _members(family: Family) -> tuple[str, ...]:
    if not family.repo_patterns:
        return family.list_repos()
    from pipeline.catalog import hub_discovery

    return hub_discovery.list_member_repos(family)


def _unit(family: Family) -> str | None:
    """Return the unit of training progress that revision names state; None if they state none.

    For steps, the tokens per step are included if they are known.
    """
    groups = family.rev.groupindex
    batches = dict.fromkeys(f"{stage.tokens_per_step:,}" for stage in family.stages if stage.tokens_per_step)
    if "tokens" in groups:
        return "tokens"
    if "step" in groups:
        return f"step of {' or '.join(batches)} tokens" if batches else "step"
    return family.position
