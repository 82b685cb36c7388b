"""Similarity record of one layer from the hidden states of the compared tokens."""

import torch
from jaxtyping import Float, Float64, Int, Int64
from torch import Tensor

from pipeline.geometry.duplicates import find_distinct_rows
from pipeline.similarity.record import LayerRecord
from pipeline.similarity.settings import Similarity

SPARE_VECTORS, ITERATIONS = 16, 4
"""Extra vectors, and number of products with K, of the subspace iteration; its error is part of `tail`."""
MIN_STATES = 3
"""U-centring divides by the number of states minus 2."""
INDEX_BITS = 15
"""Number of low bits of a squared distance that are replaced by the index; ties within 2^-37 are ordered by index."""


def record_layer(points: Float[Tensor, "tokens dim"], settings: Similarity, seed: int = 0) -> LayerRecord | None:
    """Return the similarity record of a layer; None if a state is not finite, all are equal, or there are under 3.

    Sums are float64, and neighbours are exact up to their rounding. Distances come from the centred kernel of the
    distinct states, so that equal states have distance 0 and equal distances to all other states.

    Source: Halko et al. 2011, algorithm 4.4 (subspace iteration).
    """
    if len(points) < MIN_STATES or not bool(points.isfinite().all()):
        return None
    kernel, squares = _kernel_and_distances(points)
    trace = float(kernel.trace())
    if trace <= 0:
        return None
    values, vectors = _leading(kernel, settings.rank, seed)
    stored = vectors.to(torch.float16)
    factors = stored.to(torch.float64) * values
    keys = _keys(squares)
    nearest = keys.topk(min(settings.neighbours, len(points) - 1), dim=1, largest=False).indices
    return LayerRecord(
        neighbours=nearest.to(torch.int16).cpu().numpy(),
        vectors=stored.cpu().numpy(),
        values=values.cpu().numpy(),
        diagonal=kernel.diagonal().to(torch.float32).cpu().numpy(),
        trace=trace,
        sum_of_squares=float(kernel.square().sum()),
        tail=float(_u_center(kernel - factors @ factors.T).norm()),
        ranks=_ranks(keys).to(torch.int16).cpu().numpy() if settings.ranks else None,
    )


def _kernel_and_distances(
    points: Float[Tensor, "tokens dim"],
) -> tuple[Float64[Tensor, "tokens tokens"], Float64[Tensor, "tokens tokens"]]:
    """Return the kernel of the centred states, and the squared distances."""
    distinct, inverse = _distinct(points)
    shifted = distinct.to(torch.float64) - points.to(torch.float64).mean(0)
    product = shifted @ shifted.T
    product = (product + product.T) / 2
    own = product.diagonal()
    squares = (own[:, None] + own[None, :] - 2 * product).clamp_min(0)
    squares.fill_diagonal_(0)
    return product[inverse][:, inverse], squares[inverse][:, inverse]


def _distinct(points: Float[Tensor, "tokens dim"]) -> tuple[Tensor, Int[Tensor, " tokens"]]:
    """Return the distinct states, and the index of each token's state among them."""
    found = find_distinct_rows(points)
    if len(found.first_indices) == len(points):
        return points, torch.arange(len(points), device=points.device)
    return points.unique(dim=0, return_inverse=True)


def _leading(
    kernel: Float64[Tensor, "tokens tokens"], rank: int, seed: int
) -> tuple[Float64[Tensor, " rank"], Float64[Tensor, "tokens rank"]]:
    """Return the largest singular values of the states, descending, and their left singular vectors."""
    size = rank + SPARE_VECTORS
    if 2 * size >= len(kernel):
        squares, vectors = torch.linalg.eigh(kernel)
    else:
        start = torch.randn(len(kernel), size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        basis = start.to(kernel.device)
        for _ in range(ITERATIONS):
            basis = torch.linalg.qr(kernel @ basis).Q
        squares, inner = torch.linalg.eigh(basis.T @ kernel @ basis)
        vectors = basis @ inner
    return squares[-rank:].flip(0).clamp_min(0).sqrt(), vectors[:, -rank:].flip(1)


def _keys(squares: Float64[Tensor, "tokens tokens"]) -> Int64[Tensor, "tokens tokens"]:
    """Encode squared distances as integers that sort equally, with ties by index and each token last in its own row."""
    low = (1 << INDEX_BITS) - 1
    keys = (squares.view(torch.int64) & ~low) | torch.arange(len(squares), device=squares.device)
    keys.fill_diagonal_(torch.iinfo(torch.int64).max)
    return keys


def _ranks(keys: Int64[Tensor, "tokens tokens"]) -> Int64[Tensor, "tokens tokens"]:
    """Return the rank of each token among the neighbours of each other token: 1 for the nearest, 0 for itself."""
    ranks = keys.argsort(1).argsort(1) + 1
    return ranks.fill_diagonal_(0)


def _u_center(kernel: Float64[Tensor, "tokens tokens"]) -> Float64[Tensor, "tokens tokens"]:
    """Return the U-centred matrix, which has a zero diagonal and zero row and column sums.

    Source: Szekely & Rizzo 2014, definition 2.
    """
    n = len(kernel)
    hollow = kernel - torch.diag(kernel.diagonal())
    sums = hollow.sum(1)
    centred = hollow - (sums[:, None] + sums[None, :]) / (n - 2) + sums.sum() / ((n - 1) * (n - 2))
    return centred.fill_diagonal_(0)
