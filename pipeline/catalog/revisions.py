"""What was seen of a history: every name in it, what that points at, and in which state it is."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from pipeline.catalog.digests import Sha256ByName
from pipeline.catalog.family import KnownBad
from pipeline.catalog.revision_names import TrainingPoint
from pipeline.hashing import digest_file_hashes
from pipeline.spec import Checkpoint

EMPTY_POINT = TrainingPoint()
FINAL_ORDER, UNKNOWN_ORDER = (1,), (2,)
"""Sort a final model behind all that has a place, and what may have any behind that."""

RevisionState = Literal[
    "NEW",
    "UNCHANGED",
    "RETAGGED",
    "REUPLOADED",
    "DUPLICATE_OF",
    "PARTIAL_DUP",
    "NO_WEIGHTS",
    "GONE",
    "UNPARSED",
    "GATED",
]
"""How a revision stands against what the lake knows of it; `audit.states` says which comes first.

NEW never seen; UNCHANGED same commit; RETAGGED other commit, same weights; REUPLOADED other weights; DUPLICATE_OF never
seen, weights known under another name; PARTIAL_DUP never seen, some of its weight files are also those of another name;
NO_WEIGHTS nothing there that can be loaded; GONE seen before, no longer there; UNPARSED a name that does not say where
in training it stands; GATED access not granted.
"""


@dataclass(frozen=True)
class Revision:
    """One name in a history: a branch, tag, sub-folder, or repo of its own."""

    name: str
    training_point: TrainingPoint = EMPTY_POINT
    """Where in training it stands; empty for a final model and for a name that does not say."""
    training_order: tuple = FINAL_ORDER
    """Sorts the revisions of a history in training order: (0, order of the place), FINAL or UNPLACED."""
    commit: str | None = None
    """Null for a local folder."""
    state: RevisionState = "NEW"
    """NO_WEIGHTS, UNPARSED, GATED, or NEW as long as nothing is known of the lake."""
    state_reason: str | None = None
    """Why it is not measured."""
    weight_hashes: Sha256ByName = field(default_factory=dict)
    """Its weight files that are there, an index among them, by name with their sha256."""
    known_bad: tuple[KnownBad, ...] = ()
    """What the catalogue knows to be wrong with it, whether or not the listing agrees."""
    checkpoint: Checkpoint | None = None
    """Null for what is not measured."""

    @property
    def sort_key(self) -> tuple:
        """Training order, with the name for ties."""
        return self.training_order, self.name

    @property
    def is_final(self) -> bool:
        """A trained model that its publisher gives no step: `main`, which may be the last step or a soup of several."""
        return self.training_order == FINAL_ORDER

    @property
    def weights_digest(self) -> str | None:
        return digest_file_hashes(self.weight_hashes.items()) if self.weight_hashes else None

    @property
    def shard_hashes(self) -> Mapping[str, str]:
        """The files with tensors in them: an index may well be that of every step."""
        return {name: sha for name, sha in self.weight_hashes.items() if not name.endswith(".json")}


@dataclass(frozen=True)
class History:
    """The revisions of one model in training order, and the names that are none."""

    model: str
    revisions: tuple[Revision, ...]
    ignored_names: tuple[str, ...] = ()
    """Sub-folders that hold no checkpoint, and names that are no point of this history: not looked into."""
    family_name: str = "local"
    """The catalogue's family by which names were read; generic for a repo that it does not know."""
    formerly: str | None = None
    """The id by which it was asked for, where the repo was renamed since."""
    missing_on_hub: bool = False
    """The catalogue has the repo, the Hub has not."""

    @property
    def checkpoints(self) -> tuple[Checkpoint, ...]:
        """Those that can be measured."""
        return tuple(revision.checkpoint for revision in self.revisions if revision.checkpoint)

    @property
    def unparsed(self) -> tuple[str, ...]:
        """Names that do not say where in training they stand: not measured."""
        return tuple(revision.name for revision in self.revisions if revision.state == "UNPARSED")
