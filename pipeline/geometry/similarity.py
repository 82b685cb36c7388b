"""Similarity record of one layer from the hidden states of the compared tokens."""

from hashlib import blake2b

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int, Int64
from torch import Tensor

from pipeline.geometry.duplicates import find_distinct_rows
from pipeline.similarity.record import LayerRecord
from pipeline.similarity.settings import Similarity

SPARE_VECTORS, ITERATIONS = 16, 4
"""Settings of the subspace iteration: number of vectors beyond the wanted rank, and number of products with the kernel
K. The error of the iteration is part of `LayerRecord.tail`."""
MIN_STATES = 3
"""Minimum number of states, because U-centring divides by their number minus 2."""
INDEX_BITS = 15
"""Number of low bits of a float64 squared distance that are replaced by the token's place in the order of ties.
Distances that are equal within a relative 2^-37 are thus in this order."""


def record_layer(points: Float[Tensor, "tokens dim"], settings: Similarity, seed: int = 0) -> LayerRecord | None:
    """Return the similarity record of a layer; None if a state is not finite, all are equal, or there are fewer than 3.

    Sums are float64, and the neighbours are exact up to the rounding of these sums. Distances come from the centred
    kernel of the distinct states, so that two equal states have distance 0, and equal distances to every other state.
    Equal distances are in a random order that follows from the states.

    Args:
        points: hidden states of the compared tokens in this layer.
        seed: seed of the start vectors of the subspace iteration.

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
    diagonal = kernel.diagonal().to(torch.float32).cpu().numpy()
    keys = _keys(squares, _order_of_ties(diagonal))
    nearest = keys.topk(min(settings.neighbours, len(points) - 1), dim=1, largest=False).indices
    return LayerRecord(
        neighbours=nearest.to(torch.int16).cpu().numpy(),
        vectors=stored.cpu().numpy(),
        values=values.cpu().numpy(),
        diagonal=diagonal,
        trace=trace,
        sum_of_squares=float(kernel.square().sum()),
        tail=float(_u_center(kernel - factors @ factors.T).norm()),
        ranks=_ranks(keys).to(torch.int16).cpu().numpy() if settings.ranks else None,
    )


def _kernel_and_distances(
    points: Float[Tensor, "tokens dim"],
) -> tuple[Float64[Tensor, "tokens tokens"], Float64[Tensor, "tokens tokens"]]:
    """Return the kernel K = X X' of the centred states X, and the squared distances between all pairs of states."""
    distinct, inverse = _distinct(points)
    shifted = distinct.to(torch.float64) - points.to(torch.float64).mean(0)
    product = shifted @ shifted.T
    product = (product + product.T) / 2
    own = product.diagonal()
    squares = (own[:, None] + own[None, :] - 2 * product).clamp_min(0)
    squares.fill_diagonal_(0)
    return product[inverse][:, inverse], squares[inverse][:, inverse]


def _distinct(points: Float[Tensor, "tokens dim"]) -> tuple[Tensor, Int[Tensor, " tokens"]]:
    """Return the distinct states `[distinct, dim]`, and for each token the index of its state among them."""
    found = find_distinct_rows(points)
    if len(found.first_indices) == len(points):
        return points, torch.arange(len(points), device=points.device)
    return points.unique(dim=0, return_inverse=True)


def _leading(
    kernel: Float64[Tensor, "tokens tokens"], rank: int, seed: int
) -> tuple[Float64[Tensor, " rank"], Float64[Tensor, "tokens rank"]]:
    """Return the `rank` largest singular values of the centred states, descending, and their left singular vectors."""
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


def _order_of_ties(diagonal: Float32[np.ndarray, " tokens"]) -> Int64[Tensor, " tokens"]:
    """Return a random order of the tokens that follows from the diagonal of the kernel, so that layers differ in it.

    One order for all layers, such as that of the indices, would let unrelated layers share the neighbours of repeated
    states. Rounded to float32, the diagonal is the same on every device and number of threads.
    """
    seed = int.from_bytes(blake2b(diagonal.tobytes(), digest_size=7).digest())
    return torch.randperm(len(diagonal), generator=torch.Generator().manual_seed(seed))


def _keys(squares: Float64[Tensor, "tokens tokens"], order: Int64[Tensor, " tokens"]) -> Int64[Tensor, "tokens tokens"]:
    """Return integers that sort like the squared distances, ties in this order, and each token last in its own row."""
    low = (1 << INDEX_BITS) - 1
    keys = (squares.view(torch.int64) & ~low) | order.to(squares.device)
    keys.fill_diagonal_(torch.iinfo(torch.int64).max)
    return keys


def _ranks(keys: Int64[Tensor, "tokens tokens"]) -> Int64[Tensor, "tokens tokens"]:
    """Return at [i, j] the rank of token j among the neighbours of token i: 1 for the nearest, 0 for i itself."""
    ranks = keys.argsort(1).argsort(1) + 1
    return ranks.fill_diagonal_(0)


def _u_center(kernel: Float64[Tensor, "tokens tokens"]) -> Float64[Tensor, "tokens tokens"]:
    """Return the U-centred kernel, whose diagonal, row sums and column sums are zero.

    Source: Szekely & Rizzo 2014, definition 2.
    """
    n = len(kernel)
    hollow = kernel - torch.diag(kernel.diagonal())
    sums = hollow.sum(1)
    centred = hollow - (sums[:, None] + sums[None, :]) / (n - 2) + sums.sum() / ((n - 1) * (n - 2))
    return centred.fill_diagonal_(0)
