"""Audits: the newest one per model counts, and the view `checkpoints` includes revisions that were never measured."""

from datetime import UTC, datetime, timedelta

import pytest

from pipeline import lake as lakes
from pipeline.lake import Audit, Audited, Lake
from tests.support import lake_rows

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)
MEASURED = lake_rows.checkpoint(1, weights="w")


@pytest.fixture
def lake(tmp_path):
    return Lake(tmp_path / "lake")


def audited(step: int, state: str, *findings: str, weights: str | None = "w") -> Audited:
    return Audited(
        revision=f"step{step}",
        commit_sha="c" * 40,
        step=step,
        tokens_seen=None,
        stage=None,
        run=None,
        weights_digest=weights and lake_rows.sha(weights),
        state=state,
        findings=findings,
    )


def audit(*revisions: Audited, minutes: int = 0, model: str = "lab/small") -> Audit:
    return Audit(model=model, family="small", revisions=revisions, seen_at=NOON + timedelta(minutes=minutes))


def shown(lake: Lake) -> list[tuple[object, ...]]:
    query = "select revision, family, measured, audit, findings from checkpoints order by step, weights_digest"
    return lakes.open_lake(lake.uri).sql(query).fetchall()


def test_an_audit_is_written_only_if_it_differs_from_the_newest(lake):
    assert lake.record_audit(audit(audited(1, "NEW")))
    assert not lake.record_audit(audit(audited(1, "NEW"), minutes=1))
    assert lake.record_audit(audit(audited(1, "UNCHANGED"), minutes=2))
    assert lake.record_audit(audit(audited(1, "NEW"), minutes=3)), "only the newest audit is compared"
    assert lake.record_audit(audit(audited(1, "NEW"), model="lab/other"))
    assert [(a.model, a.revisions[0].state) for a in lake.audits()] in (
        [("lab/small", "NEW"), ("lab/other", "NEW")],
        [("lab/other", "NEW"), ("lab/small", "NEW")],
    )


def test_the_view_shows_measured_and_audited_revisions(lake):
    lake.record_labels([MEASURED])
    lake_rows.commit(lake, MEASURED)
    lake.record_audit(audit(audited(1, "UNCHANGED"), audited(2, "NO_WEIGHTS", "it has no weights", weights=None)))
    assert shown(lake) == [
        ("step1", "small", True, "UNCHANGED", []),
        ("step2", "small", False, "NO_WEIGHTS", ["it has no weights"]),
    ]


def test_without_an_audit_its_columns_are_null(lake):
    lake.record_labels([MEASURED])
    lake_rows.commit(lake, MEASURED)
    assert shown(lake) == [("step1", None, True, None, None)]


def test_a_superseded_label_does_not_get_the_audit_of_its_replacement(lake):
    lake.record_labels([MEASURED])
    lake_rows.commit(lake, MEASURED)
    lake.record_labels([lake_rows.checkpoint(1, weights="new")])
    lake.record_audit(audit(audited(1, "REUPLOADED", weights="new")))
    states = dict(lakes.open_lake(lake.uri).sql("select weights_digest, audit from checkpoints").fetchall())
    assert states == {lake_rows.sha("w"): None, lake_rows.sha("new"): "REUPLOADED"}
