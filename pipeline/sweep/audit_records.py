"""Audits against a lake: the state of every revision, what is wrong with it, and the record of both."""

from pathlib import Path
from typing import Any

from pipeline.catalog import families
from pipeline.catalog.audit import HistoryFinding, assign_states, audit_history
from pipeline.catalog.discovery import discover_histories
from pipeline.catalog.revisions import History
from pipeline.lake import Audit, Audited, Lake
from pipeline.lake.records import ResolvedLabel
from pipeline.sources import CheckpointSource, Hub, Local, Members


def audit_histories(names: list[str], uri: str | None) -> list[dict[str, Any]]:
    """Audit the histories of `names`, and keep the audits in the lake where one is named."""
    lake = None if uri is None else Lake(uri)
    labels = [] if lake is None else lake.labels()
    found = [
        assign_states(h, last_seen_revisions(labels, h.model))
        for name in names
        for h in discover_histories(parse_source_name(name))
    ]
    if lake is not None:
        for history in found:
            lake.record_audit(build_audit_record(history))
    return [_as_json(history) for history in found]


def parse_source_name(name: str) -> CheckpointSource:
    """What a person means by `name`: a folder, a family of the catalogue, or a repo of the Hub."""
    if Path(name).is_dir():
        return Local(local=name)
    if name in {family.name for family in families.load_families()}:
        return Members(family=name)
    return Hub(hub=name)


def last_seen_revisions(labels: list[ResolvedLabel], model: str) -> dict[str, tuple[str | None, str]]:
    """Commit and weights of each of the model's labels as the lake last saw them."""
    return {
        named.label.revision: (named.label.commit_sha, named.label.weights_digest)
        for named in labels
        if named.label.model == model and not named.superseded
    }


def build_audit_record(history: History) -> Audit:
    """The audit as the lake keeps it: per revision its state, and what is said of it."""
    findings = audit_history(history)
    revisions = tuple(
        Audited(
            revision=revision.name,
            commit_sha=revision.commit,
            step=revision.training_point.step,
            tokens_seen=revision.training_point.tokens,
            stage=revision.training_point.stage,
            run=revision.training_point.run,
            weights_digest=revision.weights_digest,
            state=revision.state,
            findings=tuple(
                f"{finding.what}: {finding.says}" for finding in findings if revision.name in finding.revisions
            ),
        )
        for revision in history.revisions
    )
    return Audit(model=history.model, family=history.family_name, formerly=history.formerly, revisions=revisions)


def serious_findings(findings: tuple[HistoryFinding, ...]) -> tuple[HistoryFinding, ...]:
    """Those that a plan warns of: over which a curve would be wrong, or lack points."""
    return tuple(finding for finding in findings if finding.severity != "note")


def _as_json(history: History) -> dict[str, Any]:
    return {
        "model": history.model,
        "rule": history.family_name,
        "findings": [finding._asdict() for finding in audit_history(history)],
        "revisions": [one.model_dump() for one in build_audit_record(history).revisions],
    }
