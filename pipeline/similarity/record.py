"""Data classes: the similarity record of one layer, and the tokens on which two records are compared."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float16, Float32, Float64, Int, Int16

Matrix = np.ndarray


@dataclass(frozen=True, eq=False)
class LayerRecord:
    """Geometry of P tokens in one layer, stored in place of their hidden states [P, dim].

    Let X [P, dim] be the states minus their mean over the P tokens. K = X X' is their linear kernel. All distances are
    Euclidean.
    """

    neighbours: Int16[Matrix, "tokens k"]
    """Indices of each token's k nearest other tokens, nearest first. Equal distances are in a random order, which
    differs between layers unless their states are the same."""
    vectors: Float16[Matrix, "tokens rank"]
    """Left singular vectors of X with the largest singular values."""
    values: Float64[Matrix, " rank"]
    """Singular values of `vectors`, descending: K is approximately vectors * diag(values^2) * vectors'."""
    diagonal: Float32[Matrix, " tokens"]
    """Diagonal of K: squared distance of each token's state from the mean state."""
    trace: float
    """Trace of K: total variance of the states times P."""
    sum_of_squares: float
    """Sum of the squared entries of K."""
    tail: float
    """Frobenius norm of K - factors factors' after U-centring. It includes the rounding of the vectors to float16."""
    ranks: Int16[Matrix, "tokens tokens"] | None = None
    """Entry [i, j] is the rank of token j among the neighbours of token i: 1 for the nearest, 0 for i itself. None if
    the ranks were not recorded or not read."""

    @property
    def n_tokens(self) -> int:
        return len(self.neighbours)

    @property
    def factors(self) -> Float64[Matrix, "tokens rank"]:
        """Vectors times their singular values, so that K is approximately factors factors'."""
        return self.vectors.astype(np.float64) * self.values


@dataclass(frozen=True, eq=False)
class ComparedTokens:
    """Choice of the recorded tokens that enter a comparison, with the group of contexts of each token."""

    group: Int[Matrix, " tokens"]
    """Index, from 0, of the group of contexts to which each token belongs."""
    keep: Bool[Matrix, " tokens"]
    """Mask of the kept tokens, those that enter the comparison."""

    @classmethod
    def every(cls, n_tokens: int) -> "ComparedTokens":
        """Return an instance that keeps all tokens, in one group, for similarities without standard errors."""
        return cls(np.zeros(n_tokens, np.int64), np.ones(n_tokens, bool))

    def only(self, mask: Any) -> "ComparedTokens":
        """Return a copy that keeps only those kept tokens that are also in the mask."""
        return ComparedTokens(self.group, self.keep & np.asarray(mask, bool))

    @property
    def groups(self) -> list[int]:
        """Indices of the groups that have kept tokens, ascending."""
        return sorted({*self.group[self.keep].tolist()})

    @property
    def count(self) -> int:
        """Number of kept tokens."""
        return int(self.keep.sum())


def first_of_each(token_ids: Int[Matrix, " tokens"]) -> Bool[Matrix, " tokens"]:
    """Return the mask of the first occurrence of each token id, for comparisons with one token per token type."""
    mask = np.zeros(len(token_ids), bool)
    mask[np.unique(token_ids, return_index=True)[1]] = True
    return mask
