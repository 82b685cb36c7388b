"""Comparison of the neighbour lists of two layers: overlap and information imbalance, on the tokens that are kept."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int, UInt64

from pipeline.similarity.blas_threads import on_one_blas_thread
from pipeline.similarity.record import ComparedTokens, LayerRecord

CHUNK_TOKENS = 64
"""Number of tokens whose lists enter one matrix product of `_multiply_common`; its operand then takes 20 MB for 154
layers of 512 tokens."""
POPCOUNT_PAIRS = 16
"""Lists are intersected pair by pair if there are at most this many pairs of layers per layer; for more pairs, matrix
products are faster."""


class Overlap(NamedTuple):
    """Share of neighbours that every layer of a first stack has in common with every layer of a second one."""

    value: Float64[np.ndarray, "first second"]
    """Mean share over the tokens that have k kept neighbours in both layers; NaN if there is no such token."""
    without: Float64[np.ndarray, "groups first second"]
    """Entry g leaves out the tokens of group g, as points and as neighbours. There are no entries if errors were not
    asked for, or if there is only one group."""
    counted: Int[np.ndarray, "first second"]
    """Number of tokens that have k kept neighbours in both layers."""


class NeighbourStack:
    """The k nearest kept neighbours of each kept token in several layers, as bit arrays.

    Args:
        records: one record per layer.
        k: neighbours per token. A token with fewer than k kept neighbours in its recorded list does not count in this
            layer.
    """

    def __init__(self, records: Sequence[LayerRecord], tokens: ComparedTokens, k: int) -> None:
        self.k, self.tokens = k, tokens
        rows = np.flatnonzero(tokens.keep)
        self.group = tokens.group[rows]
        found = [nearest_kept(record, tokens, k) for record in records]
        self.bits: UInt64[np.ndarray, "layers rows words"] = np.stack([_as_bits(one, tokens) for one, _ in found])
        """One row per kept token; bit j is 1 if token j is one of its k neighbours."""
        self.counts: Bool[np.ndarray, "layers rows"] = np.stack([enough for _, enough in found])
        """Mask of the kept tokens whose recorded list has k kept neighbours."""

    def without(self, group: int) -> tuple[UInt64[np.ndarray, "layers rows words"], Float64[np.ndarray, "layers rows"]]:
        """Return the bit arrays with one group of tokens left out, and the number of neighbours left for each token.

        The group's tokens are removed as rows and as neighbours; -1 removes none. A token that does not count in a
        layer (`counts`) has no neighbours there.
        """
        rows = self.group != group
        inside = np.zeros(self.bits.shape[2] * 64, np.uint8)
        inside[: len(self.tokens.group)] = self.tokens.group != group
        mask = np.packbits(inside, bitorder="little").view(np.uint64)
        bits = (self.bits[:, rows] & mask) * self.counts[:, rows, None]
        return bits, np.bitwise_count(bits).sum(-1, dtype=np.int64).astype(float)


def nearest_kept(
    record: LayerRecord, tokens: ComparedTokens, k: int
) -> tuple[Int[np.ndarray, "rows k"], Bool[np.ndarray, " rows"]]:
    """Return the k nearest kept neighbours of each kept token, and the mask of tokens whose list has k of them.

    A row outside this mask ends with neighbours that are not kept.
    """
    lists = record.neighbours[tokens.keep].astype(np.int64)
    kept = tokens.keep[lists]
    order = np.argsort(~kept, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(lists, order, 1), kept.sum(1) >= k


@on_one_blas_thread
def compare_neighbours(first: NeighbourStack, second: NeighbourStack, errors: bool = True) -> Overlap:
    """Return the share of the k nearest neighbours that two layers have in common, for every pair of layers.

    The expected share is k / (tokens - 1) for unrelated layers and 1 for equal geometries. When a group is left out,
    its tokens are removed from the lists, no other neighbours take their places, and the share is that of the remaining
    neighbours.

    Source: Doimo et al. 2020 (neighbourhood overlap).

    Bias: neighbours at equal distances are in a random order, so that equal geometries in which states repeat have a
        share below 1, unless the states of both layers are the same.

    Args:
        errors: also compute the values with one group left out at a time; each takes as long as the value itself.
    """
    value = _share_in_common(first, second, -1)
    groups = first.tokens.groups if errors and len(first.tokens.groups) > 1 else []
    without = [_share_in_common(first, second, g) for g in groups]
    counted = first.counts.astype(np.int64) @ second.counts.T.astype(np.int64)
    return Overlap(value, np.stack(without) if without else np.zeros((0, *value.shape)), counted)


def _share_in_common(
    first: NeighbourStack, second: NeighbourStack, left_out: int
) -> Float64[np.ndarray, "first second"]:
    """Return, for each pair of layers, the number of common neighbours divided by the mean length of the two lists.

    Numerator and denominator are summed over the tokens that have neighbours in both layers. The tokens of group
    `left_out` are left out as points and as neighbours; -1 leaves out none.
    """
    mine, my_sizes = first.without(left_out)
    theirs, their_sizes = (mine, my_sizes) if second is first else second.without(left_out)
    lengths = my_sizes @ (their_sizes > 0).T.astype(float) + (my_sizes > 0).astype(float) @ their_sizes.T
    few = len(mine) * len(theirs) <= POPCOUNT_PAIRS * (len(mine) + len(theirs))
    common = _popcount_common(mine, theirs) if few else _multiply_common(mine, theirs)
    with np.errstate(invalid="ignore"):
        return 2 * common / lengths


def _popcount_common(
    mine: UInt64[np.ndarray, "first rows words"], theirs: UInt64[np.ndarray, "second rows words"]
) -> Float64[np.ndarray, "first second"]:
    """Return the number of common neighbours, summed over tokens, of every pair of layers; one pair at a time."""
    counts = [[np.bitwise_count(a & b).sum(dtype=np.int64) for b in theirs] for a in mine]
    return np.array(counts, float).reshape(len(mine), len(theirs))


def _multiply_common(
    mine: UInt64[np.ndarray, "first rows words"], theirs: UInt64[np.ndarray, "second rows words"]
) -> Float64[np.ndarray, "first second"]:
    """Return the same counts as `_popcount_common` by matrix products over the bits, which is faster for many pairs."""
    found = np.zeros((len(mine), len(theirs)))
    for start in range(0, mine.shape[1], CHUNK_TOKENS):
        left = _bits_of(mine[:, start : start + CHUNK_TOKENS])
        right = left if theirs is mine else _bits_of(theirs[:, start : start + CHUNK_TOKENS])
        found += left @ right.T
    return found


def _bits_of(words: UInt64[np.ndarray, "layers rows words"]) -> Float32[np.ndarray, "layers bits"]:
    flat = np.ascontiguousarray(words).reshape(len(words), -1).view(np.uint8)
    return np.unpackbits(flat, axis=1).astype(np.float32)


def expected_overlap(k: int, n_tokens: int) -> float:
    """Return the expected overlap of independent lists of k neighbours among `n_tokens` tokens."""
    return k / (n_tokens - 1)


def permuted_overlap(
    first: LayerRecord, second: LayerRecord, tokens: ComparedTokens, k: int, draws: int, rng: np.random.Generator
) -> Float64[np.ndarray, " draws"]:
    """Return the overlap of two layers under random permutations of the second layer's tokens, one value per draw.

    The values are a sample of the distribution of the overlap for unrelated layers. A value is NaN if no token has k
    kept neighbours in both layers.
    """
    (mine, enough), (theirs, also) = (nearest_kept(record, tokens, k) for record in (first, second))
    kept = np.flatnonzero(tokens.keep)
    index = np.full(len(tokens.keep), -1)
    index[kept] = np.arange(len(kept))
    is_neighbour = np.zeros((len(kept), len(kept)), bool)
    np.put_along_axis(is_neighbour, index[theirs], True, axis=1)
    mine, found = index[mine], np.empty(draws)
    for draw in range(draws):
        order = rng.permutation(len(kept))
        shared = is_neighbour[order[:, None], order[mine]].sum(1)
        counts = enough & also[order]
        found[draw] = shared[counts].mean() / k if counts.any() else np.nan
    return found


def information_imbalance(first: LayerRecord, second: LayerRecord, tokens: ComparedTokens) -> tuple[float, float]:
    """Return the information imbalance from the first layer to the second, and that from the second to the first.

    The imbalance from A to B takes each token's nearest neighbour in A and finds its rank among the token's neighbours
    in B. It is the mean of these ranks times 2 / n, where n is the number of kept tokens. It is near 0 if A predicts
    the neighbours in B, and near 1 if A has no information on them. Only kept tokens count in the ranks.

    Source: Glielmo et al. 2022, equation 2.

    Raises:
        ValueError: a record has no ranks.
    """
    if first.ranks is None or second.ranks is None:
        raise ValueError("information imbalance needs records with ranks")
    mine, theirs = (_ranks_among(ranks, tokens) for ranks in (first.ranks, second.ranks))
    return _mean_rank_of_nearest(mine, theirs), _mean_rank_of_nearest(theirs, mine)


def _mean_rank_of_nearest(mine: Int[np.ndarray, "rows rows"], theirs: Int[np.ndarray, "rows rows"]) -> float:
    nearest = np.where(mine > 0, mine, mine.shape[0]).argmin(1)
    return float(2 * theirs[np.arange(len(theirs)), nearest].mean() / len(theirs))


def _ranks_among(ranks: np.ndarray, tokens: ComparedTokens) -> Int[np.ndarray, "rows rows"]:
    """Return, for each kept token, the ranks of all kept tokens among its kept neighbours; its own rank is 0."""
    kept = np.flatnonzero(tokens.keep)
    order = ranks[np.ix_(kept, kept)].argsort(1)
    found = np.empty_like(order)
    np.put_along_axis(found, order, np.arange(len(kept))[None, :], 1)
    return found


def _as_bits(lists: Int[np.ndarray, "rows k"], tokens: ComparedTokens) -> UInt64[np.ndarray, "rows words"]:
    """Encode lists of token indices as rows of 64-bit words, in which bit j is 1 if j is in the list."""
    words = np.zeros((len(lists), -(-len(tokens.keep) // 64)), np.uint64)
    rows = np.repeat(np.arange(len(lists)), lists.shape[1])
    flat = lists.reshape(-1)
    np.bitwise_or.at(words, (rows, flat // 64), np.uint64(1) << (flat % 64).astype(np.uint64))
    return words
