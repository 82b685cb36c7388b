"""Similarity of the checkpoints of one history, from similarity records.

Each pair of checkpoints is compared on the tokens that are ordinary, which means no sinks, in both. Checkpoints with
the same sinks are compared together: a history whose sinks do not change needs one product per block. A checkpoint that
cannot be compared is left out and named, and does not affect the others.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int

from pipeline.analysis.similarities import can_compare, compare_layers, shared_tokens
from pipeline.lake.cell_records import CellRecords
from pipeline.similarity.masked_kernels import compare_masked_layers
from pipeline.similarity.record import ComparedTokens

NO_GEOMETRY, FEW_TOKENS = "no geometry", "too few ordinary tokens"
MAX_NAMED = 3
"""Number of left-out checkpoints or runs that a sentence names; it states only the number of further ones."""


class Comparable(NamedTuple):
    """Division of a history into checkpoints that can be compared with the last usable one, and all others."""

    at: list[int]
    """Indices of the checkpoints that can be compared; the last one is the checkpoint they are compared with."""
    left_out: list[str]
    """Revisions of all other checkpoints, each followed by the reason in parentheses."""


class Course(NamedTuple):
    """Similarity of one block at each checkpoint to the same block at the last checkpoint."""

    layer: int
    depth: float
    at: Int[np.ndarray, " checkpoints"]
    """Indices of the checkpoints at which the similarity is known, ascending; the last checkpoint is one of them."""
    value: Float64[np.ndarray, " checkpoints"]
    """Similarity at each of these checkpoints."""
    without: Float64[np.ndarray, "groups checkpoints"]
    """Row g has the similarities with group g of the contexts left out; no rows if there is only one group."""
    bound: Float64[np.ndarray, " checkpoints"]
    """Largest difference of each similarity from the CKA of whole kernels; 0 for overlaps."""

    @property
    def largest_bound(self) -> float:
        """Largest bound before the last checkpoint, at which a layer is compared with itself."""
        return float(self.bound[:-1].max())


def select_comparable(cells: Sequence[CellRecords]) -> Comparable:
    """Select the last checkpoint with geometry and enough ordinary tokens, and all that can be compared with it."""
    reasons: dict[int, str] = {}
    last: CellRecords | None = None
    for i in reversed(range(len(cells))):
        reason = _find_obstacle(cells[i], last or cells[i])
        if reason:
            reasons[i] = reason
        else:
            last = last or cells[i]
    left_out = [f"{cells[i].about['revision']} ({reasons[i]})" for i in sorted(reasons)]
    return Comparable([i for i in range(len(cells)) if i not in reasons], left_out)


def _find_obstacle(cell: CellRecords, last: CellRecords) -> str | None:
    """Return the reason why a checkpoint cannot be compared with `last`; None if it can be compared."""
    if not cell.blocks:
        return NO_GEOMETRY
    tokens = shared_tokens([cell, last])
    same_groups = tokens.groups == shared_tokens([last]).groups
    return None if same_groups and can_compare(tokens) else FEW_TOKENS


def name_left_out(names: Sequence[str]) -> str:
    """Return a sentence that names the left-out checkpoints or runs, with a leading space; empty without names."""
    shown = ", ".join(names[:MAX_NAMED])
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return f" Left out: {shown}{more}." if names else ""


def measure_courses(cells: Sequence[CellRecords], measure: str) -> list[Course]:
    """Measure, for each block, the similarity of its state at each checkpoint to its state at the last one.

    A block is left out if its similarity at the last checkpoint is not finite.
    """
    tokens = [shared_tokens([cell, cells[-1]]) for cell in cells]
    found = (_measure_course(cells, tokens, layer, measure) for layer in cells[-1].blocks)
    return [course for course in found if len(course.at) and course.at[-1] == len(cells) - 1]


def _measure_course(cells: Sequence[CellRecords], tokens: Sequence[ComparedTokens], layer: int, measure: str) -> Course:
    last = cells[-1]
    value, bound = np.full((2, len(cells)), np.nan)
    n_groups = len(tokens[-1].groups)
    without = np.full((n_groups if n_groups > 1 else 0, len(cells)), np.nan)
    recorded = {i: tokens[i].keep for i, cell in enumerate(cells) if layer in cell.layers}
    for same in _group_equal_masks(recorded):
        records = [cells[i].layers[layer] for i in same]
        found = compare_layers(records, [last.layers[layer]], tokens[same[0]], measure)
        value[same], without[:, same], bound[same] = found.value[:, 0], found.without[:, :, 0], found.bound[:, 0]
    at = np.flatnonzero(np.isfinite(value) & np.isfinite(without).all(0))
    return Course(layer, last.depths[layer], at, value[at], without[:, at], bound[at])


def compare_checkpoints(
    cells: Sequence[CellRecords], layers: Sequence[int]
) -> list[Float64[np.ndarray, "checkpoints checkpoints"]]:
    """Return, for each of these layers, the CKA of every pair of checkpoints, on the tokens that are ordinary in both.

    It is NaN for a pair without records of the layer, or with too few such tokens. Each layer is recorded at one
    or more of the checkpoints.
    """
    recorded = [[i for i, cell in enumerate(cells) if layer in cell.layers] for layer in layers]
    parts = [
        ([cells[i].layers[layer] for i in at], np.stack([~cells[i].sinks for i in at]))
        for layer, at in zip(layers, recorded, strict=True)
    ]
    matrices = [np.full((len(cells), len(cells)), np.nan) for _ in layers]
    for matrix, at, found in zip(matrices, recorded, compare_masked_layers(parts), strict=True):
        matrix[np.ix_(at, at)] = found
    return matrices


def _group_equal_masks(masks: Mapping[int, np.ndarray]) -> list[list[int]]:
    """Return lists of the keys whose masks are equal; lists and keys are in the order of first appearance."""
    groups: dict[bytes, list[int]] = {}
    for key, mask in masks.items():
        groups.setdefault(mask.tobytes(), []).append(key)
    return list(groups.values())
