"""Similarity of layers, from similarity records, with errors over groups of contexts.

Every value comes with the values that remain if one group of contexts is left out (delete-a-group jackknife). A
function of several similarities on the same tokens is computed with each group left out as well, so that its error is
paired.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64, Int
from scipy.special import stdtrit

from pipeline.analysis.group_errors import Estimate
from pipeline.errors import UsageError
from pipeline.lake.cell_records import CellRecords
from pipeline.similarity.kernels import MIN_TOKENS, KernelStack, compare_kernels
from pipeline.similarity.neighbours import NeighbourStack, compare_neighbours, expected_overlap
from pipeline.similarity.record import ComparedTokens, LayerRecord

CKA = "cka"
OVERLAPS = {"overlap_1": 1, "overlap_4": 4, "overlap_16": 16}
"""Number of neighbours per token that each overlap counts."""
MEASURES = (CKA, *OVERLAPS)
MIN_COUNTED = 20
"""An `overlap_1` has an error only if at least this many tokens have the same nearest neighbour in both layers, and at
least this many have different ones. With fewer, the values without each of two groups are often equal, and the 95 %
interval misses the true value in up to half of all pairs."""
MIN_SHARE = 0.25
"""Findings use an overlap only if at least this share of the ordinary tokens counts in it. A token counts if its
recorded list has enough ordinary neighbours, so that tokens beside sinks do not. Of 512 tokens with lists of 16, 20
random sinks leave 39 % for `overlap_16`, whose value is then 0.007 too high on average; 40 sinks leave 13 %, and the
value is 0.018 too high. `overlap_4` keeps 91 % with 300 sinks."""
HEADLINES = (CKA, "overlap_4")
"""Measures of the findings that compare checkpoints or models."""
NO_ERRORS_REASON = "the records have one group of contexts, or a similarity has no value without one of the groups"
COMPARED_FIELDS = {
    "corpus_sha256": ("corpus", "Measure both on one corpus"),
    "corpus": ("corpus", "Measure both on one corpus"),
    "tokenizer_digest": ("tokenizer", "Compare models with one tokenizer"),
    "recipe_fingerprint": ("recipe", "Measure both by one recipe"),
}
"""Columns whose values decide which tokens are compared. For each: its name in error messages, and the remedy if the
values of two cells differ."""


class Similarities(NamedTuple):
    """Similarity of every layer of a first list with every layer of a second one."""

    value: Float64[np.ndarray, "first second"]
    without: Float64[np.ndarray, "groups first second"]
    """Entry g is the similarity with group g of the contexts left out; there are no entries if there is only one group,
    or if errors were not asked for. Entries of an `overlap_1` are NaN if it rests on too few tokens (MIN_COUNTED)."""
    bound: Float64[np.ndarray, "first second"]
    """Largest possible distance between `value` and the CKA of the whole kernels; 0 for overlaps."""
    counted: Int[np.ndarray, "first second"]
    """Number of tokens on which `value` rests: those with enough kept neighbours in both layers; for the CKA all."""


def shared_tokens(cells: Sequence[CellRecords]) -> ComparedTokens:
    """Return the choice of tokens that keeps those which are ordinary (no sinks) in all of these cells.

    Raises:
        UsageError: the cells have records of different tokens.
    """
    for other in cells[1:]:
        require_comparable(cells[0], other)
    sinks = np.any([cell.sinks for cell in cells], axis=0)
    return ComparedTokens(cells[0].groups, ~sinks)


def require_comparable(first: CellRecords, second: CellRecords) -> None:
    """Raise UsageError unless both cells have records of the same tokens.

    The message names the first column of COMPARED_FIELDS in which the cells differ, or the numbers of tokens.
    """
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
    raise UsageError(asked, found, "Write the same number in similarity.tokens of both sweeps, and run them")


def compare_layers(
    first: Sequence[LayerRecord],
    second: Sequence[LayerRecord],
    tokens: ComparedTokens,
    measure: str,
    dtype: type = np.float64,
    errors: bool = True,
) -> Similarities:
    """Return the similarity of every layer of `first` with every layer of `second`.

    Args:
        measure: one of MEASURES.
        dtype: dtype in which the products of the CKA are computed.
        errors: also compute the values with one group of contexts left out at a time.
    """
    if measure == CKA:
        stack = KernelStack(first, tokens, dtype)
        found = compare_kernels(stack, stack if second is first else KernelStack(second, tokens, dtype), errors)
        without = found.without if len(found.without) > 1 else found.without[:0]
        return Similarities(found.value, without, found.bound, np.full(found.value.shape, tokens.count))
    k = OVERLAPS[measure]
    lists = NeighbourStack(first, tokens, k)
    overlap = compare_neighbours(lists, lists if second is first else NeighbourStack(second, tokens, k), errors)
    counted = np.minimum(overlap.value, 1 - overlap.value) * tokens.count
    without = np.where(counted >= MIN_COUNTED, overlap.without, np.nan) if k == 1 else overlap.without
    return Similarities(overlap.value, without, np.zeros_like(overlap.value), overlap.counted)


def count_along(found: Similarities) -> int:
    """Return the smallest number of counted tokens over the pairs of neighbours in a list of layers, and its ends."""
    return int(min(np.diagonal(found.counted, 1).min(), found.counted[0, -1]))


class MeanSimilarity(NamedTuple):
    """Mean similarity over pairs of layers."""

    value: float
    without: Float64[np.ndarray, " groups"]
    """Means with one group of contexts left out at a time; empty if there is only one group."""
    bound: float
    """Largest difference of the mean from that of the CKA of whole kernels; 0 for overlaps."""
    counted: int
    """Smallest number of tokens on which the similarity of a pair rests."""


def mean_similarity(
    first: CellRecords, second: CellRecords, pairs: Sequence[tuple[int, int]], tokens: ComparedTokens, measure: str
) -> MeanSimilarity:
    """Return the mean similarity over pairs of layers of two cells; all values are NaN if there are no pairs."""
    if not pairs:
        n_groups = len(tokens.groups)
        return MeanSimilarity(float("nan"), np.full(n_groups if n_groups > 1 else 0, np.nan), float("nan"), 0)
    rows, columns = [first.layers[a] for a, _ in pairs], [second.layers[b] for _, b in pairs]
    found = compare_layers(rows, columns, tokens, measure)
    value, bound = (float(np.diagonal(part).mean()) for part in (found.value, found.bound))
    return MeanSimilarity(value, found.without.diagonal(0, 1, 2).mean(1), bound, int(np.diagonal(found.counted).min()))


def widen(estimate: Estimate, bound: float) -> Estimate:
    """Return the estimate with limits that also hold if the value differs by up to `bound`.

    A verdict on widened limits holds for whole kernels, of which records keep only the leading components.
    """
    if estimate.low is None or estimate.high is None:
        return estimate
    return Estimate(estimate.value, estimate.low - bound, estimate.high + bound)


def expected_similarity(measure: str, tokens: ComparedTokens) -> float:
    """Return the expected similarity of unrelated layers, which is 0 for the debiased CKA."""
    return 0.0 if measure == CKA else expected_overlap(OVERLAPS[measure], tokens.count)


def can_compare(tokens: ComparedTokens) -> bool:
    """Return True if at least MIN_TOKENS tokens are kept, and also with the largest of several groups left out."""
    largest = max((int((tokens.group[tokens.keep] == g).sum()) for g in tokens.groups), default=0)
    return tokens.count - (largest if len(tokens.groups) > 1 else 0) >= MIN_TOKENS


def rests_on_few(counted: int, tokens: ComparedTokens) -> bool:
    """Return True if too few of the kept tokens count in an overlap (MIN_SHARE)."""
    return counted < MIN_SHARE * tokens.count


def describe_lack(row: Mapping[str, Any]) -> str:
    """Return the reason why a similarity has no value that findings use, from `measure`, `tokens` and `counted`."""
    if row["measure"] == CKA:
        return "in a block, the compared tokens, or all but one, have one state"
    k, tokens = OVERLAPS[row["measure"]], f"{row['counted']} of {row['tokens']} ordinary tokens"
    return f"in a pair of blocks, only {tokens} keep {k} ordinary neighbours, under a quarter"


def jackknife_estimate(value: float, without: Sequence[float] | np.ndarray, level: float = 0.95) -> Estimate:
    """Return a value with its interval by Student's t, from the values with one group of contexts left out at a time.

    The limits are None if there are fewer than two groups, or if a value is not finite.

    Source: Efron and Stein 1981 (delete-a-group jackknife).

    Args:
        without: one value per left-out group.
        level: coverage of the interval.
    """
    parts = np.asarray(without, float)
    n = len(parts)
    if n < 2 or not np.isfinite(parts).all() or not np.isfinite(value):
        return Estimate(float(value))
    se = float(np.sqrt((n - 1) / n * ((parts - parts.mean()) ** 2).sum()))
    half = float(stdtrit(n - 1, (1 + level) / 2)) * se
    return Estimate(float(value), float(value) - half, float(value) + half)


def estimate_columns(name: str, estimate: Estimate) -> dict[str, float | None]:
    """Return an estimate as columns NAME, NAME_low and NAME_high; a number that is not finite is null."""
    finite = [x if x is not None and np.isfinite(x) else None for x in estimate]
    return dict(zip((name, f"{name}_low", f"{name}_high"), finite, strict=True))


def describe_bound(row: Mapping[str, Any], what: str) -> str:
    """Return words in parentheses on `bound`, by which the whole kernels may differ; empty for overlaps."""
    if row["measure"] != CKA or row["bound"] is None:
        return ""
    return f" (for whole kernels, the {what} may differ by {row['bound']:.3f} more)"
