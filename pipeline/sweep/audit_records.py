"""Audit of histories: the state and the findings of every revision, compared with a lake and recorded in it."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pipeline.catalog import families
from pipeline.catalog.audit import HistoryFinding, assign_states, audit_history
from pipeline.catalog.discovery import discover_histories
from pipeline.catalog.revisions import History
from pipeline.lake import Audit, Audited, Lake
from pipeline.lake.records import ResolvedLabel
from pipeline.sources import CheckpointSource, Hub, Local, Members


def audit_histories(names: list[str], uri: str | None, base: str | None = None) -> list[dict[str, Any]]:
    """Audit the histories of `names` and return one JSON object per history.

    Args:
        names: local folders, families of the catalogue or Hub repos.
        uri: lake with which the revisions are compared and in which the audits are recorded; None = neither.
        base: folder or REPO@REVISION of the model into which adapters of folders and repos are merged.
    """
    lake = None if uri is None else Lake.writable(uri)
    labels = [] if lake is None else lake.labels()
    found = [history for name in names for history in discover_histories(parse_source_name(name, base))]
    histories = [assign_states(history, last_seen_revisions(labels, history.model)) for history in found]
    audited = [(history, audit_history(history)) for history in histories]
    if lake is not None:
        for history, findings in audited:
            lake.record_audit(build_audit_record(history, findings))
    return [_as_json(history, findings) for history, findings in audited]


def parse_source_name(name: str, base: str | None = None) -> CheckpointSource:
    """Return the source that `name` stands for: an existing local folder, else a catalogue family, else a Hub repo."""
    if Path(name).is_dir():
        return Local(local=name, base=base)
    if name in {family.name for family in families.load_families()}:
        return Members(family=name)
    return Hub(hub=name, base=base)


def last_seen_revisions(labels: list[ResolvedLabel], model: str) -> dict[str, tuple[str | None, str]]:
    """Map each revision of the model to its last recorded (commit, weights digest)."""
    current = [resolved.label for resolved in labels if resolved.label.model == model and not resolved.superseded]
    return {label.revision: (label.commit_sha, label.weights_digest) for label in current}


def build_audit_record(history: History, findings: Iterable[HistoryFinding]) -> Audit:
    """Build the audit record of a history, with the state and the findings of every revision."""
    findings = tuple(findings)
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
    """Return the errors and warnings, which would make a curve wrong or incomplete; notes are left out."""
    return tuple(finding for finding in findings if finding.severity != "note")


def _as_json(history: History, findings: tuple[HistoryFinding, ...]) -> dict[str, Any]:
    return {
        "model": history.model,
        "rule": history.family_name,
        "findings": [finding._asdict() for finding in findings],
        "revisions": [revision.model_dump() for revision in build_audit_record(history, findings).revisions],
    }
