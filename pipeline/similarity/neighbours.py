"""Overlap of neighbour lists, and information imbalance, of two layers on the tokens that a comparison keeps."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int, UInt64

from pipeline.similarity.blas_threads import on_one_blas_thread
from pipeline.similarity.record import ComparedTokens, LayerRecord

CHUNK_TOKENS = 64
"""Tokens per matrix product when intersecting lists: 20 MB for 154 layers of 512 tokens."""
POPCOUNT_PAIRS = 16
"""Largest number of pairs per layer for which lists are intersected pair by pair."""


class Overlap(NamedTuple):
    """Share of common neighbours of pairs of layers."""

    value: Float64[np.ndarray, "first second"]
    """Mean share over the tokens; NaN if no token has k kept neighbours."""
    without: Float64[np.ndarray, "groups first second"]
    """Value without the tokens of each group, which are also removed from the neighbour lists."""


class NeighbourStack:
    """The k nearest kept neighbours of each kept token in several layers, as sets of bits.

    Args:
        k: neighbours per token; a token whose list has fewer than k kept neighbours is excluded.
    """

    def __init__(self, records: Sequence[LayerRecord], tokens: ComparedTokens, k: int) -> None:
        self.k, self.tokens = k, tokens
        rows = np.flatnonzero(tokens.keep)
        self.group = tokens.group[rows]
        found = [nearest_kept(record, tokens, k) for record in records]
        self.bits: UInt64[np.ndarray, "layers rows words"] = np.stack([_as_bits(one, tokens) for one, _ in found])
        self.counts: Bool[np.ndarray, "layers rows"] = np.stack([enough for _, enough in found])
        """Mask of the tokens with k kept neighbours."""

    def without(self, group: int) -> tuple[UInt64[np.ndarray, "layers rows words"], Float64[np.ndarray, "layers rows"]]:
        """Return the lists without the tokens of one group, and the lengths of these lists."""
        rows = self.group != group
        inside = np.zeros(self.bits.shape[2] * 64, np.uint8)
        inside[: len(self.tokens.group)] = self.tokens.group != group
        mask = np.packbits(inside, bitorder="little").view(np.uint64)
        bits = (self.bits[:, rows] & mask) * self.counts[:, rows, None]
        return bits, np.bitwise_count(bits).sum(-1, dtype=np.int64).astype(float)


def nearest_kept(
    record: LayerRecord, tokens: ComparedTokens, k: int
) -> tuple[Int[np.ndarray, "rows k"], Bool[np.ndarray, " rows"]]:
    """Return the k nearest kept neighbours of each kept token, and the mask of tokens whose list has k of them."""
    lists = record.neighbours[tokens.keep].astype(np.int64)
    kept = tokens.keep[lists]
    order = np.argsort(~kept, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(lists, order, 1), kept.sum(1) >= k


@on_one_blas_thread
def compare_neighbours(first: NeighbourStack, second: NeighbourStack, errors: bool = True) -> Overlap:
    """Return the share of the k nearest neighbours that two layers have in common, for all pairs of layers.

    Unrelated layers give k / (tokens - 1), equal geometries 1. Ties are broken by index. For values without a group,
    its tokens are removed from the lists without replacement, and the share is taken of the remaining neighbours.

    Source: Doimo et al. 2020 (neighbourhood overlap).

    Args:
        errors: also compute the value without each group; each takes as long as the value itself.
    """
    value = _share_in_common(first, second, -1)
    groups = first.tokens.groups if errors and len(first.tokens.groups) > 1 else []
    without = [_share_in_common(first, second, g) for g in groups]
    return Overlap(value, np.stack(without) if without else np.zeros((0, *value.shape)))


def _share_in_common(
    first: NeighbourStack, second: NeighbourStack, left_out: int
) -> Float64[np.ndarray, "first second"]:
    """Return common neighbours over the mean length of the lists, without the tokens of group `left_out` (-1: none)."""
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
    """Count the common neighbours of all pairs of layers, pair by pair."""
    counts = [[np.bitwise_count(a & b).sum(dtype=np.int64) for b in theirs] for a in mine]
    return np.array(counts, float).reshape(len(mine), len(theirs))


def _multiply_common(
    mine: UInt64[np.ndarray, "first rows words"], theirs: UInt64[np.ndarray, "second rows words"]
) -> Float64[np.ndarray, "first second"]:
    """Count common neighbours like `_popcount_common`, by matrix products over the bits; faster for many pairs."""
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
    """Return the expected overlap of independent lists."""
    return k / (n_tokens - 1)


def permuted_overlap(
    first: LayerRecord, second: LayerRecord, tokens: ComparedTokens, k: int, draws: int, rng: np.random.Generator
) -> Float64[np.ndarray, " draws"]:
    """Return the overlap of two layers with the second one's tokens permuted: its distribution for unrelated layers."""
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
    """Return the information imbalance from the first layer to the second, and the reverse: 2 / n times the mean rank,
    in the other layer, of each token's nearest neighbour in this one.

    0 if a layer predicts the neighbours in the other, 1 if it has no information on them. Ranks are counted among the
    kept tokens.

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
    """Return the ranks among the kept tokens, 0 for the token itself."""
    kept = np.flatnonzero(tokens.keep)
    order = ranks[np.ix_(kept, kept)].argsort(1)
    found = np.empty_like(order)
    np.put_along_axis(found, order, np.arange(len(kept))[None, :], 1)
    return found


def _as_bits(lists: Int[np.ndarray, "rows k"], tokens: ComparedTokens) -> UInt64[np.ndarray, "rows words"]:
    """Encode sets of token indices as bits of 64-bit words."""
    words = np.zeros((len(lists), -(-len(tokens.keep) // 64)), np.uint64)
    rows = np.repeat(np.arange(len(lists)), lists.shape[1])
    flat = lists.reshape(-1)
    np.bitwise_or.at(words, (rows, flat // 64), np.uint64(1) << (flat % 64).astype(np.uint64))
    return words
