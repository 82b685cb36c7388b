"""Data model of a discovered history: revisions with training point, commit, weight hashes and state."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from pipeline.catalog.digests import Sha256ByName
from pipeline.catalog.family import KnownBad
from pipeline.catalog.revision_names import TrainingPoint
from pipeline.hashing import digest_file_hashes
from pipeline.spec import Checkpoint

EMPTY_POINT = TrainingPoint()
FINAL_ORDER, UNKNOWN_ORDER = (1,), (2,)
"""Values of `Revision.training_order` for a final model and for an unparsed name; both sort after all known points."""

MeasurableState = Literal["NEW", "UNCHANGED", "RETAGGED", "REUPLOADED", "DUPLICATE_OF", "PARTIAL_DUP"]
RevisionState = Literal[MeasurableState, "NO_WEIGHTS", "GONE", "UNPARSED", "GATED"]
"""State of a revision in comparison with the lake; `audit.classify_revisions` says which state takes precedence.

- NEW: the lake has not recorded the revision, and its weights are new.
- UNCHANGED: the lake has recorded it with the same commit and the same weights.
- RETAGGED: the lake has recorded it with the same weights, but another commit.
- REUPLOADED: the lake has recorded it with other weights.
- DUPLICATE_OF: the lake has not recorded it, but its weights are recorded under another name or belong to an earlier
  revision.
- PARTIAL_DUP: the lake has not recorded it, and it shares some, but not all, weight files with another revision.
- NO_WEIGHTS: its weights cannot be loaded.
- GONE: the lake has recorded it, but it is no longer listed.
- UNPARSED: its name states no training point.
- GATED: access to its files is not granted.
"""


@dataclass(frozen=True)
class Revision:
    """Named checkpoint of a history: a branch, tag or subfolder, or a repo with a single checkpoint."""

    name: str
    training_point: TrainingPoint = EMPTY_POINT
    """Training point in the name; empty for a final model and for an unparsed name."""
    training_order: tuple = FINAL_ORDER
    """Sort key of training order: (0, key of the training point), FINAL_ORDER or UNKNOWN_ORDER."""
    commit: str | None = None
    """Hub commit; None for a local folder."""
    state: RevisionState = "NEW"
    """State of the revision; until it is compared with a lake, one of NO_WEIGHTS, UNPARSED, GATED and NEW."""
    state_reason: str | None = None
    """Reason why the revision cannot be measured, if any."""
    weight_hashes: Sha256ByName = field(default_factory=dict)
    """sha256 by name of the weight files that exist, including an index."""
    known_bad: tuple[KnownBad, ...] = ()
    """Known issues in the catalogue, whether or not the listing confirms them."""
    checkpoint: Checkpoint | None = None
    """Checkpoint to measure; None if the revision is not measured."""

    @property
    def sort_key(self) -> tuple:
        """Sort key of training order, with the name as tie-breaker."""
        return self.training_order, self.name

    @property
    def is_final(self) -> bool:
        """True if the revision is a trained model whose name states no step, such as `main` or an average of
        checkpoints."""
        return self.training_order == FINAL_ORDER

    @cached_property
    def weights_digest(self) -> str | None:
        """Digest of the weight files that exist; None if there are none."""
        if self.checkpoint and self.weight_hashes:
            return self.checkpoint.weights_digest
        return digest_file_hashes(self.weight_hashes.items()) if self.weight_hashes else None

    @property
    def shard_hashes(self) -> Mapping[str, str]:
        """sha256 by name of the weight files. The index is left out, because it may be the same at every step."""
        return {name: sha for name, sha in self.weight_hashes.items() if not name.endswith(".json")}


@dataclass(frozen=True)
class History:
    """Revisions of one model in training order, and the names that were ignored."""

    model: str
    revisions: tuple[Revision, ...]
    ignored_names: tuple[str, ...] = ()
    """Names of subfolders without a checkpoint, and of branches and tags that are known not to be checkpoints."""
    family_name: str = "local"
    """Catalogue family whose rules parsed the names; "generic" for a repo outside the catalogue."""
    formerly: str | None = None
    """Id under which the repo was requested, if the repo has been renamed since; else None."""
    missing_on_hub: bool = False
    """True if the catalogue lists the repo but the Hub does not have it."""

    @property
    def checkpoints(self) -> tuple[Checkpoint, ...]:
        """Checkpoints that can be measured."""
        return tuple(revision.checkpoint for revision in self.revisions if revision.checkpoint)

    @property
    def unparsed(self) -> tuple[str, ...]:
        """Names of the revisions whose names state no training point; these revisions are not measured."""
        return tuple(revision.name for revision in self.revisions if revision.state == "UNPARSED")
