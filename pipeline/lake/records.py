"""The lake's small records: labels, failures and tombstones."""

import socket
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Annotated, NamedTuple

from pydantic import Field

from pipeline.spec import Checkpoint, ModelKind
from pipeline.strict_model import StrictModel, digest_json

HexDigest = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]


FIELDS_NOT_IN_LABEL = {"path", "tokenizer_path", "remote", "tokenizer_remote", "n_params"}
"""Fields of a Checkpoint that a label leaves out: where its files are, and a guess."""


def utc_now() -> datetime:
    return datetime.now(UTC)


class Label(StrictModel):
    """What a label (model, revision) was seen to point at; the Checkpoint without its folders."""

    model: str
    revision: str
    kinds: tuple[ModelKind, ...]
    weights_digest: str
    config_digest: str
    tokenizer_digest: str
    content: str
    family: str | None
    commit_sha: str | None
    step: int | None
    tokens_seen: int | None
    tokens_source: str | None
    stage: str | None
    run: str | None
    seen_at: datetime

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
        """Digest of everything but the time: equal records say the same."""
        return digest_json(self.model_dump(mode="json", exclude={"seen_at"}), bits=64)


class Audited(StrictModel):
    """A revision of a history as an audit saw it, whether or not it was ever measured."""

    revision: str
    commit_sha: str | None
    step: int | None
    tokens_seen: int | None
    stage: str | None
    run: str | None
    weights_digest: str | None
    """Null where it has no weights."""
    state: str
    """NEW, UNCHANGED, DUPLICATE_OF ...: a word of `pipeline.catalog.audit`."""
    findings: tuple[str, ...]
    """What is wrong with it, a sentence each."""


class Audit(StrictModel):
    """Every revision of one model's history at one time."""

    model: str
    family: str | None
    formerly: str | None = None
    """Another name of the model, under which the lake may have labels: the repo was renamed."""
    revisions: tuple[Audited, ...]
    seen_at: datetime = Field(default_factory=utc_now)

    @property
    def digest_without_time(self) -> str:
        """Digest of everything but the time: equal audits say the same."""
        return digest_json(self.model_dump(mode="json", exclude={"seen_at"}), bits=64)


class ResolvedLabel(NamedTuple):
    """A label and the content it points at or pointed at, with what the other labels say about it."""

    label: Label
    first_seen: datetime
    duplicate_of: str | None
    superseded: bool


def resolve_labels(labels: Iterable[Label]) -> list[ResolvedLabel]:
    """One entry per (label, content), described by its newest record.

    `superseded`: the label's newest record points at other content: weights, config or tokenizer. `duplicate_of`:
    the first other label (by first sight, then step) that points at equal weights now; both of a pair name each other.
    """
    by_time = sorted(((label.name, label) for label in labels), key=lambda named: named[1].seen_at)
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
    """One failed attempt at a cell."""

    cell_id: HexDigest
    model: str
    model_key: str
    revision: str
    corpus: str
    corpus_sha256: str | None = None
    recipe: str
    kind: str
    error_class: Annotated[str, Field(pattern=r"^[a-z][a-z_]*$")]
    """The outcome class the driver counts strikes by: permanent, transient, crash ..."""
    message: str
    traceback: str | None = None
    command: str
    """Reproduces the failure."""
    run_id: str
    attempt: int
    batch_tokens: int | None = None
    """Tokens per forward pass of this attempt; less after each time that the memory was short."""
    host: str = Field(default_factory=socket.gethostname)
    """Where it was made; empty where a worker died of which that is not known."""
    seconds: float | None = None
    """That it took until then; of one whose worker died, since Ray was given it."""
    when: datetime = Field(default_factory=utc_now)

    @property
    def measurement_key(self) -> tuple[str | None, ...]:
        """What the cell was to measure, whatever the files behind the label."""
        return self.model, self.revision, self.corpus, self.corpus_sha256, self.recipe, self.kind


class Tombstone(StrictModel):
    """Hides a committed cell from readers, or keeps a failed one from being tried again."""

    cell_id: HexDigest
    reason: str
    by: str
    """A run, or a person."""
    when: datetime = Field(default_factory=utc_now)
    failure: Failure | None = None
    """The last failure, where that is the reason."""

    @classmethod
    def from_failure(cls, failure: Failure) -> "Tombstone":
        return cls(
            cell_id=failure.cell_id,
            reason=f"{failure.error_class}: {failure.message}",
            by=f"run {failure.run_id}",
            failure=failure,
        )
