"""Records of a lake: labels, audits, failures and tombstones."""

import socket
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Annotated, Any, NamedTuple

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from pipeline.spec import Checkpoint, ModelKind
from pipeline.strict_model import StrictModel, digest_json

HexDigest = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Int64 = Annotated[int, Field(ge=-(2**63), lt=2**63)]
"""Integer that fits an int64 column."""


def _require_utc(when: datetime) -> datetime:
    """Return the time with a zone; one without a zone is taken as UTC. Raise ValueError for years outside 1 to 9999."""
    try:
        when.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("a time outside the years 1 to 9999") from error
    return when if when.tzinfo else when.replace(tzinfo=UTC)


Time = Annotated[datetime, AfterValidator(_require_utc)]
FIELDS_NOT_IN_LABEL = {
    *("path", "tokenizer_path", "base_path", "remote", "tokenizer_remote", "base_remote"),
    *("n_params", "n_blocks"),
}
"""Fields of a Checkpoint that a label omits: the locations of its files, and the sizes that only a plan needs."""


def utc_now() -> datetime:
    return datetime.now(UTC)


class Label(StrictModel):
    """Record of the content to which a label (model and revision) pointed at the time `seen_at`.

    It has the fields of a Checkpoint, except FIELDS_NOT_IN_LABEL.
    """

    model: str
    revision: str
    kinds: tuple[ModelKind, ...]
    weights_digest: str
    config_digest: str
    tokenizer_digest: str
    content: str
    family: str | None
    commit_sha: str | None
    step: Int64 | None
    tokens_seen: Int64 | None
    tokens_source: str | None
    stage: str | None
    run: str | None
    seen_at: Time

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint, seen_at: datetime) -> "Label":
        fields = checkpoint.model_dump(exclude=FIELDS_NOT_IN_LABEL)
        return cls(**fields, content=checkpoint.content, seen_at=seen_at)

    @property
    def name(self) -> str:
        return f"{self.model}@{self.revision}"

    @property
    def name_digest(self) -> str:
        return digest_json([self.model, self.revision], bits=64)

    @property
    def digest_without_time(self) -> str:
        """Digest of every field except `seen_at`, to recognise an unchanged record."""
        return digest_json(self.model_dump(mode="json", exclude={"seen_at"}), bits=64)


class Audited(StrictModel):
    """State of one revision in an audit; the revision need not be measured."""

    revision: str
    commit_sha: str | None
    step: Int64 | None
    tokens_seen: Int64 | None
    stage: str | None
    run: str | None
    weights_digest: str | None
    """Digest of the weight files; None if the revision has none."""
    state: str
    """State of the revision relative to the lake, such as NEW or UNCHANGED: a `RevisionState` of
    `pipeline.catalog.revisions`."""
    findings: tuple[str, ...]
    """Problems of the revision, each as `NAME: SENTENCE`."""


class Audit(StrictModel):
    """Record of one audit of a model: the state of each of its revisions when they were listed."""

    model: str
    family: str | None
    formerly: str | None = None
    """Earlier name of the model, if its repo was renamed; the lake may have labels under this name."""
    revisions: tuple[Audited, ...]
    seen_at: Time = Field(default_factory=utc_now)

    @property
    def digest_without_time(self) -> str:
        """Digest of every field except `seen_at`, to recognise an unchanged audit."""
        return digest_json(self.model_dump(mode="json", exclude={"seen_at"}), bits=64)


class ResolvedLabel(NamedTuple):
    """One content that a label has now or had earlier, compared with all other label records."""

    label: Label
    """Newest record of the label with this content."""
    first_seen: datetime
    """Time of the oldest record of the label with this content."""
    duplicate_of: str | None
    """Name of another label that now points to equal weights; None if there is none."""
    superseded: bool
    """True if the label now points to another content."""


def resolve_labels(labels: Iterable[Label]) -> list[ResolvedLabel]:
    """Return one entry for each pair of a label and a content that it has had.

    An entry is `superseded` if the newest record of its label has other weights, another config or another tokenizer.
    `duplicate_of` names the earliest other label (by `first_seen`, then step) that now has equal weights; two
    duplicates name each other.
    """
    by_time = sorted(((label.name, label) for label in labels), key=lambda pair: pair[1].seen_at)
    current = {name: label.content for name, label in by_time}
    newest = {(name, label.content): label for name, label in by_time}
    first = {(name, label.content): label.seen_at for name, label in reversed(by_time)}
    order = sorted(newest.items(), key=lambda item: (first[item[0]], item[1].step or 0, item[0]))
    holders: dict[str, list[str]] = {}
    for (name, content), label in order:
        if current[name] == content:
            holders.setdefault(label.weights_digest, []).append(name)
    return [
        ResolvedLabel(
            label,
            first[name, content],
            next((other for other in holders.get(label.weights_digest, ()) if other != name), None),
            current[name] != content,
        )
        for (name, content), label in order
    ]


class Failure(StrictModel):
    """Failed attempt to measure a cell."""

    cell_id: HexDigest
    model: str
    model_key: str
    revision: str
    corpus: str
    corpus_sha256: str | None = None
    recipe: str
    kind: str
    error_class: Annotated[str, Field(pattern=r"^[a-z][a-z_]*$")]
    """Failure class, such as permanent, transient or crash. The driver counts attempts by class."""
    message: str
    traceback: str | None = None
    command: str
    """Command that reproduces the failure."""
    run_id: str
    attempt: int
    """Number of the attempt at the task; see `Task.attempt`."""
    batch_tokens: int | None = None
    """Tokens per forward pass of this attempt; halved after each GPU out-of-memory failure."""
    host: str = Field(default_factory=socket.gethostname)
    """Host of the attempt; empty if the worker died and its host is unknown."""
    seconds: float | None = None
    """Duration of the attempt; if the worker died, the time since the task was submitted to Ray."""
    when: Time = Field(default_factory=utc_now)

    @property
    def measurement_key(self) -> tuple[str | None, ...]:
        """Identity of the wanted measurement. It does not depend on the content to which the label points."""
        return self.model, self.revision, self.corpus, self.corpus_sha256, self.recipe, self.kind


class Heartbeat(BaseModel):
    """Progress of a run at the time `when`. A record of another version may have more or fewer fields."""

    model_config = ConfigDict(extra="allow", ser_json_inf_nan="null")

    run_id: str
    when: Time
    sweep: str = "?"
    wanted: int = 0
    to_run: int = 0
    committed: int = 0
    failed: int = 0
    left_out: tuple[dict[str, Any], ...] = ()
    busy: float | None = None
    """Share of the slots' time that was spent in forward passes and metrics; None if not known."""
    gpu_wait_s: float = 0.0
    """Seconds, summed over slots, that slots waited for the files of their next task."""
    ended: bool = False


class Tombstone(StrictModel):
    """Quarantine record: hides a committed cell from readers, or stops attempts at a failed one."""

    cell_id: HexDigest
    reason: str
    by: str
    """Author of the record: `run RUN_ID` or `a person`."""
    when: Time = Field(default_factory=utc_now)
    failure: Failure | None = None
    """Last failure of the cell; None if a person has hidden the cell."""

    @classmethod
    def from_failure(cls, failure: Failure) -> "Tombstone":
        reason, by = f"{failure.error_class}: {failure.message}", f"run {failure.run_id}"
        return cls(cell_id=failure.cell_id, reason=reason, by=by, failure=failure)
