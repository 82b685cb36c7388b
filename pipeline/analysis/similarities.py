"""Similarity of layers with errors over groups of contexts, from similarity records.

Every value comes with its values without each group of contexts (delete-a-group jackknife). Any function of
similarities on the same tokens thus has a paired error, from its own values without each group.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64
from scipy.special import stdtrit

from pipeline.analysis.group_errors import Estimate
from pipeline.errors import UsageError
from pipeline.lake.cell_records import CellRecords
from pipeline.similarity.kernels import MIN_TOKENS, KernelStack, compare_kernels
from pipeline.similarity.neighbours import NeighbourStack, compare_neighbours, expected_overlap
from pipeline.similarity.record import ComparedTokens, LayerRecord

CKA = "cka"
OVERLAPS = {"overlap_1": 1, "overlap_4": 4, "overlap_16": 16}
"""Neighbours per token of each overlap."""
MEASURES = (CKA, *OVERLAPS)
MIN_COUNTED = 20
"""Fewest tokens with an equal nearest neighbour, and with another one, for an error of `overlap_1`: with fewer, two
groups of contexts often give equal values, so that the 95 % interval misses in up to half of all pairs."""
HEADLINES = (CKA, "overlap_4")
"""Measures of the findings over training and models."""
COMPARED_FIELDS = {
    "corpus_sha256": ("corpus", "Measure both on one corpus"),
    "corpus": ("corpus", "Measure both on one corpus"),
    "tokenizer_digest": ("tokenizer", "Compare models with one tokenizer"),
    "recipe_fingerprint": ("recipe", "Measure both by one recipe"),
}
"""Per column that decides which tokens are compared: its name in messages, and the remedy if it differs."""


class Similarities(NamedTuple):
    """Similarity of all pairs of layers."""

    value: Float64[np.ndarray, "first second"]
    without: Float64[np.ndarray, "groups first second"]
    """Values that remain when one group of contexts is left out; empty if there is only one group.

    NaN for an `overlap_1` that rests on fewer than MIN_COUNTED tokens.
    """
    bound: Float64[np.ndarray, "first second"]
    """Largest difference from the CKA of whole kernels; 0 for overlaps."""


def shared_tokens(cells: Sequence[CellRecords]) -> ComparedTokens:
    """Tokens that are ordinary in all of these cells.

    Raises:
        UsageError: the cells have records of different tokens.
    """
    for other in cells[1:]:
        require_comparable(cells[0], other)
    sinks = np.any([cell.sinks for cell in cells], axis=0)
    return ComparedTokens(cells[0].groups, ~sinks)


def require_comparable(first: CellRecords, second: CellRecords) -> None:
    """Raise UsageError, which names the first difference, unless both cells have records of the same tokens."""
    if first.tokens_digest == second.tokens_digest:
        return
    names = [f"{cell.about['model']}@{cell.about['revision']}" for cell in (first, second)]
    asked = f"similarity of {names[0]} and {names[1]}"
    for column, (name, do) in COMPARED_FIELDS.items():
        mine, theirs = first.about[column], second.about[column]
        if mine != theirs:
            shown = [str(value)[:16] for value in (mine, theirs)]
            raise UsageError(asked, f"their {name} differs: {shown[0]} and {shown[1]}", do)
    sizes = len(first.token_ids), len(second.token_ids)
    found = f"their records are of different tokens ({sizes[0]} and {sizes[1]})"
    raise UsageError(asked, found, "Run both sweeps with one `similarity.tokens`")


def compare_layers(
    first: Sequence[LayerRecord],
    second: Sequence[LayerRecord],
    tokens: ComparedTokens,
    measure: str,
    dtype: type = np.float64,
    errors: bool = True,
) -> Similarities:
    """Similarity of all pairs of these layers by one of MEASURES.

    Args:
        dtype: dtype of the products of CKA.
        errors: also compute the values without each group of contexts.
    """
    if measure == CKA:
        stack = KernelStack(first, tokens, dtype)
        found = compare_kernels(stack, stack if second is first else KernelStack(second, tokens, dtype), errors)
        return Similarities(found.value, found.without if len(found.without) > 1 else found.without[:0], found.bound)
    k = OVERLAPS[measure]
    lists = NeighbourStack(first, tokens, k)
    overlap = compare_neighbours(lists, lists if second is first else NeighbourStack(second, tokens, k), errors)
    counted = np.minimum(overlap.value, 1 - overlap.value) * tokens.count
    without = np.where(counted >= MIN_COUNTED, overlap.without, np.nan) if k == 1 else overlap.without
    return Similarities(overlap.value, without, np.zeros_like(overlap.value))


def mean_similarity(
    first: CellRecords, second: CellRecords, pairs: Sequence[tuple[int, int]], tokens: ComparedTokens, measure: str
) -> tuple[float, Float64[np.ndarray, " groups"]]:
    """Mean similarity over pairs of layers of two cells, on all tokens and without each group; NaN without pairs."""
    if not pairs:
        n_groups = len(tokens.groups)
        return float("nan"), np.full(n_groups if n_groups > 1 else 0, np.nan)
    rows, columns = [first.layers[a] for a, _ in pairs], [second.layers[b] for _, b in pairs]
    found = compare_layers(rows, columns, tokens, measure)
    return float(np.diagonal(found.value).mean()), found.without.diagonal(0, 1, 2).mean(1)


def expected_similarity(measure: str, tokens: ComparedTokens) -> float:
    """Similarity of unrelated layers: 0 for the debiased CKA."""
    return 0.0 if measure == CKA else expected_overlap(OVERLAPS[measure], tokens.count)


def can_compare(tokens: ComparedTokens) -> bool:
    """True if enough tokens are left for a comparison, even without the largest group."""
    largest = max((int((tokens.group[tokens.keep] == g).sum()) for g in tokens.groups), default=0)
    return tokens.count - (largest if len(tokens.groups) > 1 else 0) >= MIN_TOKENS


def jackknife_estimate(value: float, without: Sequence[float] | np.ndarray, level: float = 0.95) -> Estimate:
    """Interval of `value` by Student's t; `without` has the values that remain when one group of contexts is left out.

    Source: Efron and Stein 1981 (delete-a-group jackknife).
    """
    parts = np.asarray(without, float)
    n = len(parts)
    if n < 2 or not np.isfinite(parts).all() or not np.isfinite(value):
        return Estimate(float(value))
    se = float(np.sqrt((n - 1) / n * ((parts - parts.mean()) ** 2).sum()))
    half = float(stdtrit(n - 1, (1 + level) / 2)) * se
    return Estimate(float(value), float(value) - half, float(value) + half)


def estimate_columns(name: str, estimate: Estimate) -> dict[str, float | None]:
    """Columns NAME, NAME_low and NAME_high; a value that is not finite is null."""
    finite = [x if x is not None and np.isfinite(x) else None for x in estimate]
    return dict(zip((name, f"{name}_low", f"{name}_high"), finite, strict=True))
