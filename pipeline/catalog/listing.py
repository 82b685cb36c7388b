"""What `shapelake catalog` shows: the families, the models of one, or the checkpoints of one model."""

from collections.abc import Callable
from typing import Any

from pipeline.catalog.audit import RecordedRevisions, assign_states
from pipeline.catalog.discovery import discover_histories
from pipeline.catalog.families import Family, get_family, load_families
from pipeline.catalog.known_issues import list_active_issues
from pipeline.catalog.revisions import History
from pipeline.errors import UsageError
from pipeline.spec import Hub

Line = dict[str, Any]


def list_catalog(name: str | None = None, seen: Callable[[str], RecordedRevisions] = lambda model: {}) -> list[Line]:
    """One line per family; per model of the family `name`; or per checkpoint of the repo `name`, in training order.

    The Hub is asked only for a repo, and for a family whose models are named by a pattern.

    Args:
        seen: what the lake knows of a model's labels, from which the states follow.

    Raises:
        UsageError: no such family or repo, or one that the Hub has nothing of.
        FetchError: the Hub gives no answer now.
    """
    if name is None:
        return [_family(one) for one in load_families()]
    if "/" not in name:
        return _some(_models(get_family(name)), f"models of {name}")
    histories = [assign_states(history, seen(history.model)) for history in discover_histories(Hub(hub=name))]
    return _some([line for history in histories for line in _checkpoints(history)], f"checkpoints of {name}")


def _some(lines: list[Line], asked: str) -> list[Line]:
    if not lines:
        raise UsageError(asked, "the Hub has none", "List the families with shapelake catalog")
    return lines


def _family(one: Family) -> Line:
    return {
        "family": one.name,
        "models": None if one.repo_patterns else len(dict.fromkeys(map(one.model_of, one.list_repos()))),
        "where": one.where,
        "tier": " ".join(dict.fromkeys(one.tiers.values())),
        "kind": one.kind,
        "norm": one.norm,
        "unit": _unit(one),
        "gated": one.gated,
        "unloadable": one.unloadable,
        "source": one.source,
    }


def _models(one: Family) -> list[Line]:
    repos = _members(one)
    models = {one.model_of(repo): repo for repo in reversed(repos)}
    return [
        {
            "model": model,
            "family": one.name,
            "tier": one.tier_of(repo),
            "repos": sum(one.model_of(other) == model for other in repos),
            "tokenizer": one.tokenizer_for(repo),
            "gated": one.gated,
            "unloadable": one.unloadable,
        }
        for model, repo in reversed(models.items())
    ]


def _checkpoints(history: History) -> list[Line]:
    first = {one.weights_digest: one.name for one in reversed(history.revisions) if one.weight_hashes}
    return [
        {
            "model": history.model,
            "revision": one.name,
            "step": one.training_point.step,
            "tokens": one.training_point.tokens,
            "stage": one.training_point.stage,
            "run": one.training_point.run,
            "state": one.state,
            "same_as": None if (other := first.get(one.weights_digest)) == one.name else other,
            "why": one.state_reason
            or "; ".join(bad.description for bad in list_active_issues(one, history.revisions))
            or None,
            "commit": one.commit,
            "bytes": one.checkpoint.download_bytes if one.checkpoint else None,
            "rule": history.family_name,
        }
        for one in history.revisions
    ]


def _members(one: Family) -> tuple[str, ...]:
    if not one.repo_patterns:
        return one.list_repos()
    from pipeline.catalog import hub_discovery

    return hub_discovery.list_member_repos(one)


def _unit(one: Family) -> str | None:
    """In what its names say how far training had come, and how tokens follow from it; null for a final model."""
    groups = one.rev.groupindex
    batches = dict.fromkeys(f"{stage.tokens_per_step:,}" for stage in one.stages if stage.tokens_per_step)
    if "tokens" in groups:
        return "tokens"
    if "step" in groups:
        return f"step of {' or '.join(batches)} tokens" if batches else "step"
    return one.position
