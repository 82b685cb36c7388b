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
"""Training orders of a final model and of an unparsed name; both sort after all known training points."""

MeasurableState = Literal["NEW", "UNCHANGED", "RETAGGED", "REUPLOADED", "DUPLICATE_OF", "PARTIAL_DUP"]
RevisionState = Literal[MeasurableState, "NO_WEIGHTS", "GONE", "UNPARSED", "GATED"]
"""State of a revision relative to the lake; `audit.classify_revisions` defines the precedence.

NEW: not recorded. UNCHANGED: same commit. RETAGGED: other commit, same weights. REUPLOADED: other weights.
DUPLICATE_OF: not recorded, weights known under another name. PARTIAL_DUP: not recorded, shares some weight files with
another name. NO_WEIGHTS: not loadable. GONE: recorded, no longer listed. UNPARSED: the name states no training point.
GATED: access not granted.
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
    """State; before the comparison with a lake, one of NO_WEIGHTS, UNPARSED, GATED and NEW."""
    state_reason: str | None = None
    """Reason why the revision is not measured."""
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
        """True for a trained model without a stated step: `main`, the last step or an average of several."""
        return self.training_order == FINAL_ORDER

    @cached_property
    def weights_digest(self) -> str | None:
        """Digest of the weight files that exist; None if there are none."""
        if self.checkpoint and self.weight_hashes:
            return self.checkpoint.weights_digest
        return digest_file_hashes(self.weight_hashes.items()) if self.weight_hashes else None

    @property
    def shard_hashes(self) -> Mapping[str, str]:
        """Hashes of the weight files without the index, which may be identical at every step."""
        return {name: sha for name, sha in self.weight_hashes.items() if not name.endswith(".json")}


@dataclass(frozen=True)
class History:
    """Revisions of one model in training order, and the ignored names."""

    model: str
    revisions: tuple[Revision, ...]
    ignored_names: tuple[str, ...] = ()
    """Subfolders without a checkpoint, and names that are not checkpoints; neither is inspected."""
    family_name: str = "local"
    """Catalogue family whose rules parsed the names; "generic" for a repo outside the catalogue."""
    formerly: str | None = None
    """Requested id, if the repo was renamed."""
    missing_on_hub: bool = False
    """True if the catalogue lists the repo but the Hub does not have it."""

    @property
    def checkpoints(self) -> tuple[Checkpoint, ...]:
        """Checkpoints that can be measured."""
        return tuple(revision.checkpoint for revision in self.revisions if revision.checkpoint)

    @property
    def unparsed(self) -> tuple[str, ...]:
        """Names without a parsed step or token count; not measured."""
        return tuple(revision.name for revision in self.revisions if revision.state == "UNPARSED")
