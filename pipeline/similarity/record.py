"""Similarity record of one layer, and the tokens on which two records are compared."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float16, Float32, Float64, Int, Int16

Matrix = np.ndarray


@dataclass(frozen=True, eq=False)
class LayerRecord:
    """Geometry of P tokens in one layer, without the hidden states X [P, dim].

    K = X X' is the linear kernel of the states centred over the P tokens. All distances are Euclidean.
    """

    neighbours: Int16[Matrix, "tokens k"]
    """Indices of the k nearest other tokens, nearest first; ties ordered by index."""
    vectors: Float16[Matrix, "tokens rank"]
    """First left singular vectors of the centred states."""
    values: Float64[Matrix, " rank"]
    """Singular values of `vectors`: K is approximately vectors * values^2 * vectors'."""
    diagonal: Float32[Matrix, " tokens"]
    """Diagonal of K: squared distance of each token from the mean."""
    trace: float
    """Trace of K: total variance times P."""
    sum_of_squares: float
    """Sum of the squared entries of K."""
    tail: float
    """Norm of the part of the U-centred K that vectors and values leave out, including rounding of the vectors."""
    ranks: Int16[Matrix, "tokens tokens"] | None = None
    """[i, j]: rank of j among the neighbours of i, 1 for the nearest, 0 for i itself."""

    @property
    def n_tokens(self) -> int:
        return len(self.neighbours)

    @property
    def factors(self) -> Float64[Matrix, "tokens rank"]:
        """Vectors times values: K is approximately factors factors'."""
        return self.vectors.astype(np.float64) * self.values


@dataclass(frozen=True, eq=False)
class ComparedTokens:
    """Tokens on which records are compared."""

    group: Int[Matrix, " tokens"]
    """Group of contexts of each token, from 0."""
    keep: Bool[Matrix, " tokens"]
    """Tokens that enter a comparison."""

    @classmethod
    def every(cls, n_tokens: int) -> "ComparedTokens":
        """Return all tokens in one group, for similarities without standard errors."""
        return cls(np.zeros(n_tokens, np.int64), np.ones(n_tokens, bool))

    def only(self, mask: Any) -> "ComparedTokens":
        """Restrict the kept tokens to the mask."""
        return ComparedTokens(self.group, self.keep & np.asarray(mask, bool))

    @property
    def groups(self) -> list[int]:
        """Groups that have kept tokens."""
        return sorted({*self.group[self.keep].tolist()})

    @property
    def count(self) -> int:
        return int(self.keep.sum())


def first_of_each(token_ids: Int[Matrix, " tokens"]) -> Bool[Matrix, " tokens"]:
    """Return the mask of the first occurrence of each token id, for the control with one token per type."""
    mask = np.zeros(len(token_ids), bool)
    mask[np.unique(token_ids, return_index=True)[1]] = True
    return mask
