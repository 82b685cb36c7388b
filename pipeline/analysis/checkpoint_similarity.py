"""Similarity of the checkpoints of one history, each pair on the tokens that are ordinary in both of its checkpoints.

Checkpoints with equal sinks are compared together, so that a history whose sinks do not move costs one product per
block. A checkpoint that cannot be compared is left out and named; it does not affect the others.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int

from pipeline.analysis.similarities import CKA, can_compare, compare_layers, shared_tokens
from pipeline.lake.cell_records import CellRecords
from pipeline.similarity.record import ComparedTokens

NO_GEOMETRY, FEW_TOKENS = "no geometry", "too few ordinary tokens"
MAX_NAMED = 3
"""Most names of left-out checkpoints or runs in a sentence."""


class Comparable(NamedTuple):
    """Checkpoints that can be compared with the last one of them."""

    at: list[int]
    """Indices among the given checkpoints."""
    left_out: list[str]
    """Names of the checkpoints that cannot be compared, each with the reason."""


class Course(NamedTuple):
    """Similarity of one block to its final state at every checkpoint that has a value."""

    layer: int
    depth: float
    at: Int[np.ndarray, " checkpoints"]
    """Indices of the checkpoints, up to the last one."""
    value: Float64[np.ndarray, " checkpoints"]
    without: Float64[np.ndarray, "groups checkpoints"]
    """Values that remain when one group of contexts is left out; no rows if there is only one group."""


def select_comparable(cells: Sequence[CellRecords]) -> Comparable:
    """Select the last checkpoint with geometry and ordinary tokens, and those that can be compared with it."""
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
    """Reason why a checkpoint cannot be compared with the last one; None if it can."""
    if not cell.blocks:
        return NO_GEOMETRY
    tokens = shared_tokens([cell, last])
    same_groups = tokens.groups == shared_tokens([last]).groups
    return None if same_groups and can_compare(tokens) else FEW_TOKENS


def name_left_out(names: Sequence[str]) -> str:
    """Sentence that names the left-out checkpoints or runs, after a leading space; empty without names."""
    shown = ", ".join(names[:MAX_NAMED])
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return f" Left out: {shown}{more}." if names else ""


def measure_courses(cells: Sequence[CellRecords], measure: str) -> list[Course]:
    """Similarity of each block to its state at the last checkpoint; blocks without a value there are left out."""
    tokens = [shared_tokens([cell, cells[-1]]) for cell in cells]
    found = (_measure_course(cells, tokens, layer, measure) for layer in cells[-1].blocks)
    return [course for course in found if len(course.at) and course.at[-1] == len(cells) - 1]


def _measure_course(cells: Sequence[CellRecords], tokens: Sequence[ComparedTokens], layer: int, measure: str) -> Course:
    last = cells[-1]
    value = np.full(len(cells), np.nan)
    n_groups = len(tokens[-1].groups)
    without = np.full((n_groups if n_groups > 1 else 0, len(cells)), np.nan)
    recorded = {i: tokens[i].keep for i, cell in enumerate(cells) if layer in cell.layers}
    for same in _group_equal_masks(recorded):
        records = [cells[i].layers[layer] for i in same]
        found = compare_layers(records, [last.layers[layer]], tokens[same[0]], measure)
        value[same], without[:, same] = found.value[:, 0], found.without[:, :, 0]
    at = np.flatnonzero(np.isfinite(value) & np.isfinite(without).all(0))
    return Course(layer, last.depths[layer], at, value[at], without[:, at])


def compare_checkpoints(
    cells: Sequence[CellRecords], layer: int, measure: str = CKA
) -> Float64[np.ndarray, "checkpoints checkpoints"]:
    """Similarity of all pairs of checkpoints in one layer; NaN for a pair that cannot be compared."""
    values = np.full((len(cells), len(cells)), np.nan)
    groups = _group_equal_masks({i: cell.sinks for i, cell in enumerate(cells) if layer in cell.layers})
    for number, first in enumerate(groups):
        for second in groups[: number + 1]:
            tokens = shared_tokens([cells[first[0]], cells[second[0]]])
            if not can_compare(tokens):
                continue
            mine = [cells[i].layers[layer] for i in first]
            theirs = mine if first is second else [cells[i].layers[layer] for i in second]
            found = compare_layers(mine, theirs, tokens, measure, np.float32, errors=False).value
            values[np.ix_(first, second)], values[np.ix_(second, first)] = found, found.T
    return values


def _group_equal_masks(masks: Mapping[int, np.ndarray]) -> list[list[int]]:
    """Group the keys whose masks are equal; groups and keys keep their order."""
    groups: dict[bytes, list[int]] = {}
    for key, mask in masks.items():
        groups.setdefault(mask.tobytes(), []).append(key)
    return list(groups.values())
