"""Overlap of neighbour lists and information imbalance of layers, on the tokens that a comparison keeps."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int, UInt64

from pipeline.similarity.record import ComparedTokens, LayerRecord

CHUNK_WORDS = 2**22
"""64-bit words of one step of the pairwise intersections: 32 MB."""


class Overlap(NamedTuple):
    """Share of common neighbours of pairs of layers."""

    value: Float64[np.ndarray, "first second"]
    """Mean over the tokens; NaN without a token that has enough neighbours left."""
    groups: Float64[np.ndarray, "groups first second"]
    """Mean over the tokens of each group."""


class NeighbourStack:
    """The k nearest kept neighbours of each kept token in several layers, as sets of bits.

    Args:
        k: neighbours per token. A token of which fewer are left, because the others are not compared, counts nowhere.
    """

    def __init__(self, records: Sequence[LayerRecord], tokens: ComparedTokens, k: int) -> None:
        self.k, self.tokens = k, tokens
        rows = np.flatnonzero(tokens.keep)
        self.group = tokens.group[rows]
        found = [nearest_kept(record, tokens, k) for record in records]
        self.bits: UInt64[np.ndarray, "layers rows words"] = np.stack([_as_bits(one, tokens) for one, _ in found])
        self.counts: Bool[np.ndarray, "layers rows"] = np.stack([enough for _, enough in found])
        """Tokens with k neighbours left."""


def nearest_kept(
    record: LayerRecord, tokens: ComparedTokens, k: int
) -> tuple[Int[np.ndarray, "rows k"], Bool[np.ndarray, " rows"]]:
    """The k nearest kept neighbours of each kept token, and the tokens that have so many in their list."""
    lists = record.neighbours[tokens.keep].astype(np.int64)
    kept = tokens.keep[lists]
    order = np.argsort(~kept, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(lists, order, 1), kept.sum(1) >= k


def compare_neighbours(first: NeighbourStack, second: NeighbourStack) -> Overlap:
    """Share of the k nearest neighbours that two layers have in common, of all pairs of layers.

    Unrelated layers have k / (tokens - 1), equal geometries 1. Ties are broken by index.

    Source: Doimo et al. 2020 (neighbourhood overlap).
    """
    groups = first.tokens.groups
    common = np.zeros((len(groups), len(first.bits), len(second.bits)))
    counted = np.zeros_like(common)
    step = max(1, CHUNK_WORDS // max(second.bits.size, 1))
    members = [np.flatnonzero(first.group == g) for g in groups]
    for start in range(0, len(first.bits), step):
        part = slice(start, start + step)
        both = first.counts[part, None] & second.counts[None]
        shared = np.bitwise_count(first.bits[part, None] & second.bits[None]).sum(-1, dtype=np.int32) * both
        for at, rows in enumerate(members):
            common[at, part] = shared[:, :, rows].sum(-1)
            counted[at, part] = both[:, :, rows].sum(-1)
    with np.errstate(invalid="ignore"):
        value = common.sum(0) / counted.sum(0) / first.k
        return Overlap(value, common / counted / first.k)


def expected_overlap(k: int, n_tokens: int) -> float:
    """Overlap of independent lists."""
    return k / (n_tokens - 1)


def permuted_overlap(
    first: LayerRecord, second: LayerRecord, tokens: ComparedTokens, k: int, draws: int, rng: np.random.Generator
) -> Float64[np.ndarray, " draws"]:
    """Overlap of two layers with the tokens of the second in random order: its distribution if they are unrelated."""
    (mine, enough), (theirs, also) = (nearest_kept(record, tokens, k) for record in (first, second))
    kept = np.flatnonzero(tokens.keep)
    place = np.full(len(tokens.keep), -1)
    place[kept] = np.arange(len(kept))
    mine, theirs = place[mine], place[theirs]
    found = np.empty(draws)
    for draw in range(draws):
        order = rng.permutation(len(kept))
        renamed = np.argsort(order)[theirs[order]]
        counts = enough & also[order]
        shared = (mine[:, :, None] == renamed[:, None, :]).any(2).sum(1)
        found[draw] = shared[counts].mean() / k if counts.any() else np.nan
    return found


def information_imbalance(first: LayerRecord, second: LayerRecord, tokens: ComparedTokens) -> float:
    """Information imbalance from the first layer to the second: 2 / n times the mean rank, in the second, of the
    nearest neighbour in the first.

    0 if the first predicts the neighbours of the second, 1 if it tells nothing. Ranks are those among the kept tokens.

    Source: Glielmo et al. 2022, equation 2.

    Raises:
        ValueError: a record has no ranks.
    """
    if first.ranks is None or second.ranks is None:
        raise ValueError("information imbalance needs records with ranks")
    mine, theirs = (_ranks_among(ranks, tokens) for ranks in (first.ranks, second.ranks))
    nearest = np.where(mine > 0, mine, mine.shape[0]).argmin(1)
    return float(2 * theirs[np.arange(len(theirs)), nearest].mean() / len(theirs))


def _ranks_among(ranks: np.ndarray, tokens: ComparedTokens) -> Int[np.ndarray, "rows rows"]:
    """Ranks among the kept tokens, 0 for the token itself."""
    kept = np.flatnonzero(tokens.keep)
    return ranks[np.ix_(kept, kept)].argsort(1).argsort(1)


def _as_bits(lists: Int[np.ndarray, "rows k"], tokens: ComparedTokens) -> UInt64[np.ndarray, "rows words"]:
    """Sets of token indices as bits of 64-bit words."""
    words = np.zeros((len(lists), -(-len(tokens.keep) // 64)), np.uint64)
    rows = np.repeat(np.arange(len(lists)), lists.shape[1])
    flat = lists.reshape(-1)
    np.bitwise_or.at(words, (rows, flat // 64), np.uint64(1) << (flat % 64).astype(np.uint64))
    return words
