"""Debiased linear CKA of layers from factors of their kernels, with an error bound and leave-one-group-out values.

CKA is the cosine of two kernels after U-centring. U-centring removes row means from the off-diagonal entries, so that
the CKA of independent point clouds has mean 0 at any width. Whole kernels are never stored. One block of every kernel,
the tokens of one group by those of another, is computed at a time, which takes layers * (tokens / groups)^2 numbers of
4 or 8 bytes.

Source: Kornblith et al. 2019 (CKA); Song et al. 2012, equation 5 (unbiased HSIC); Szekely & Rizzo 2014, section 3
    (U-centred matrices and their inner product).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64

from pipeline.similarity.blas_threads import on_one_blas_thread
from pipeline.similarity.record import ComparedTokens, LayerRecord

MIN_TOKENS = 8
"""Smallest number of tokens that a comparison needs. U-centred matrices of n tokens have n (n - 3) / 2 degrees of
freedom, so at least 4 tokens are needed in any case."""
ROUNDING = 4096.0
"""A U-centred kernel counts as zero if its squared norm is below this many rounding errors of the squared norm before
U-centring. Equal states, or equal states but for one, have up to 700 (16 to 1024 tokens, both dtypes)."""
Products = Float64[np.ndarray, "parts first second"]
"""Inner products of the U-centred kernels of pairs of layers. Part 0 uses all tokens; part 1 + g leaves out group g."""


class KernelStack:
    """Factors of the kernels of several layers on the same tokens, scaled so that each kernel has trace 1.

    Tokens that the comparison does not keep are dropped; the others are sorted by group.

    Args:
        records: one record per layer.
        dtype: dtype of the kernel entries and of their products; float32 causes an error of about 1e-6 in CKA.
    """

    def __init__(self, records: Sequence[LayerRecord], tokens: ComparedTokens, dtype: type = np.float64) -> None:
        order = np.flatnonzero(tokens.keep)
        order = order[np.argsort(tokens.group[order], kind="stable")]
        names = tokens.group[order]
        self.starts = [*np.flatnonzero(np.diff(names, prepend=-1)).tolist(), len(order)]
        """Index of the first token of each group in the sorted tokens, followed by the number of tokens."""
        factors = np.stack([record.factors[order] for record in records])
        self.scales = np.sqrt((factors**2).sum((1, 2)))
        """Square root of the trace of each kernel before scaling."""
        self.factors = (factors / np.maximum(self.scales, 1e-300)[:, None, None]).astype(dtype)
        self.tails = np.array([record.tail for record in records]) / np.maximum(self.scales, 1e-300) ** 2
        """Norm of the part of each scaled and U-centred kernel that the factors leave out."""

    @property
    def n_tokens(self) -> int:
        return self.starts[-1]

    @property
    def parts(self) -> list[slice]:
        """One slice per group, which selects the group's tokens."""
        return [slice(a, b) for a, b in zip(self.starts[:-1], self.starts[1:], strict=True)]

    def block(self, rows: slice, columns: slice) -> Float[np.ndarray, "layers entries"]:
        """Return the entries of every kernel at these rows and columns, flattened; a diagonal entry is 0."""
        block = self.factors[:, rows] @ self.factors[:, columns].transpose(0, 2, 1)
        if rows == columns:
            block[:, np.arange(block.shape[1]), np.arange(block.shape[1])] = 0
        return block.reshape(len(block), -1)

    def row_sums(self) -> Float64[np.ndarray, "groups layers tokens"]:
        """Return, for each group and layer, each token's sum of off-diagonal kernel entries with the group's tokens."""
        totals = np.stack([self.factors[:, part].sum(1, dtype=np.float64) for part in self.parts], 2)
        sums = (self.factors.astype(np.float64) @ totals).transpose(2, 0, 1).copy()
        own = (self.factors.astype(np.float64) ** 2).sum(2)
        for sum_of_group, part in zip(sums, self.parts, strict=True):
            sum_of_group[:, part] -= own[:, part]
        return sums


def kernel_products(first: KernelStack, second: KernelStack, errors: bool = True) -> Products:
    """Return the inner products of the U-centred kernels of every pair of layers, as an array of parts.

    Part 0 uses all tokens. Part 1 + g uses the tokens outside group g. A part with fewer than MIN_TOKENS tokens is NaN.

    Args:
        errors: if false, only part 0 is computed.

    Raises:
        ValueError: the groups of the two stacks differ in number or in size.
    """
    if first.starts != second.starts:
        raise ValueError("the two stacks are not on the same tokens")
    parts = first.parts
    without = np.zeros((1 + len(parts) * errors, len(first.tails), len(second.tails)))
    for g, rows in enumerate(parts):
        for h, columns in enumerate(parts[: g + 1]):
            left = first.block(rows, columns)
            right = left if first is second else second.block(rows, columns)
            product = (left @ right.T).astype(np.float64) * (1 if g == h else 2)
            for part in {*range(len(without))} - {g + 1, h + 1}:
                without[part] += product
    mine = first.row_sums()
    theirs = mine if first is second else second.row_sums()
    return np.stack([_center(without[x], mine, theirs, parts, x - 1) for x in range(len(without))])


def _center(
    products: Float64[np.ndarray, "first second"],
    mine: Float64[np.ndarray, "groups first tokens"],
    theirs: Float64[np.ndarray, "groups second tokens"],
    parts: list[slice],
    left_out: int,
) -> Float64[np.ndarray, "first second"]:
    """Turn sums of products of off-diagonal entries into inner products of U-centred kernels.

    `products` already leaves out the group `left_out`; -1 means that no group is left out.
    """
    n = _rest(mine, parts, left_out)
    a, b = (_inner_sums(sums, parts, left_out) for sums in (mine, theirs))
    if n < MIN_TOKENS:
        return np.full(products.shape, np.nan)
    return products + np.outer(a.sum(1), b.sum(1)) / ((n - 1) * (n - 2)) - 2 / (n - 2) * (a @ b.T)


def _inner_sums(
    sums: Float64[np.ndarray, "groups layers tokens"], parts: list[slice], left_out: int
) -> Float64[np.ndarray, "layers rest"]:
    """Return the row sums of the kernels restricted to the tokens outside group `left_out` (-1: to all tokens)."""
    total = sums.sum(0) if left_out < 0 else sums.sum(0) - sums[left_out]
    return total if left_out < 0 else np.delete(total, parts[left_out], axis=1)


def _rest(sums: Float64[np.ndarray, "groups layers tokens"], parts: list[slice], left_out: int) -> int:
    """Return the number of tokens outside group `left_out` (-1: the number of all tokens)."""
    return sums.shape[2] - (0 if left_out < 0 else parts[left_out].stop - parts[left_out].start)


class Cka(NamedTuple):
    """Debiased linear CKA of every layer of a first stack with every layer of a second one."""

    value: Float64[np.ndarray, "first second"]
    bound: Float64[np.ndarray, "first second"]
    """Largest possible distance between `value` and the CKA of the whole kernels, of which records keep only the
    leading components."""
    without: Float64[np.ndarray, "groups first second"]
    """Entry g is the CKA on the tokens outside group g; there are no entries if errors were not asked for."""


@on_one_blas_thread
def compare_kernels(first: KernelStack, second: KernelStack, errors: bool = True) -> Cka:
    """Return the debiased linear CKA of every pair of layers of two stacks.

    A value is NaN if the U-centred kernel of one of its layers is zero but for rounding (ROUNDING), as for a layer that
    is constant but for one token, or on fewer than MIN_TOKENS tokens.

    Bias: only the leading components of each kernel enter; `bound` limits the distance to the CKA of the whole kernels.

    Args:
        errors: also compute the values with one group of contexts left out at a time.
    """
    products = kernel_products(first, second, errors)
    if first is second:
        norms = [_norms(np.einsum("pii->pi", products), first, errors)] * 2
    else:
        norms = [_norms(_squared_norms(stack, errors), stack, errors) for stack in (first, second)]
    values = products / (norms[0][:, :, None] * norms[1][:, None, :])
    slack = _angle(first.tails, norms[0][0])[:, None] + _angle(second.tails, norms[1][0])[None, :]
    angle = np.arccos(np.clip(values[0], -1, 1))
    low, high = np.cos(np.minimum(angle + slack, np.pi)), np.cos(np.maximum(angle - slack, 0))
    return Cka(values[0], np.maximum(high - values[0], values[0] - low), values[1:])


def _norms(
    squares: Float64[np.ndarray, "parts layers"], stack: KernelStack, errors: bool = True
) -> Float64[np.ndarray, "parts layers"]:
    """Return the norms of U-centred kernels from their squares; NaN where these are no larger than rounding errors."""
    factors = stack.factors.astype(np.float64)
    grams = np.stack([factors[:, part].transpose(0, 2, 1) @ factors[:, part] for part in stack.parts])
    diagonals = np.stack([((factors[:, part] ** 2).sum(2) ** 2).sum(1) for part in stack.parts])
    kept = 1.0 - np.eye(1 + len(stack.parts) * errors, len(stack.parts), -1)
    whole = (np.einsum("pg,glij->plij", kept, grams) ** 2).sum((2, 3)) - kept @ diagonals
    smallest = ROUNDING * np.finfo(stack.factors.dtype).eps * whole
    return np.sqrt(np.where(squares > smallest, squares, np.nan))


def _squared_norms(stack: KernelStack, errors: bool = True) -> Float64[np.ndarray, "parts layers"]:
    """Return the squared norm of each layer's U-centred kernel: part 0 on all tokens, part 1 + g without group g."""
    parts = stack.parts
    without = np.zeros((1 + len(parts) * errors, len(stack.tails)))
    for g, rows in enumerate(parts):
        for h, columns in enumerate(parts[: g + 1]):
            block = stack.block(rows, columns)
            square = np.einsum("le,le->l", block, block).astype(np.float64) * (1 if g == h else 2)
            without[[x for x in range(len(without)) if x not in (g + 1, h + 1)]] += square
    sums = stack.row_sums()
    return np.stack([_center_norms(without[x], sums, parts, x - 1) for x in range(len(without))])


def _center_norms(
    squares: Float64[np.ndarray, " layers"],
    sums: Float64[np.ndarray, "groups layers tokens"],
    parts: list[slice],
    left_out: int,
) -> Float64[np.ndarray, " layers"]:
    """Turn squared norms of off-diagonal entries into those of U-centred kernels: the diagonal of `_center`."""
    n, a = _rest(sums, parts, left_out), _inner_sums(sums, parts, left_out)
    if n < MIN_TOKENS:
        return np.full(squares.shape, np.nan)
    return squares + a.sum(1) ** 2 / ((n - 1) * (n - 2)) - 2 / (n - 2) * (a**2).sum(1)


def _angle(tails: Float64[np.ndarray, " layers"], norms: Float64[np.ndarray, " layers"]) -> np.ndarray:
    """Return the largest possible angle between each whole U-centred kernel and its leading components, in radians.

    `tails` has the norms of the left-out parts and `norms` those of the leading components. The angle is pi where the
    left-out part is not the smaller one.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        share = tails / norms
    return np.where(share < 1, np.arcsin(np.clip(share, 0, 1)), np.pi)


@on_one_blas_thread
def permuted_cka(
    first: LayerRecord, second: LayerRecord, tokens: ComparedTokens, draws: int, rng: np.random.Generator
) -> Float64[np.ndarray, " draws"]:
    """Return the CKA of two layers under random permutations of the second layer's tokens, one value per permutation.

    The values are a sample of the distribution of the CKA for unrelated layers. All are NaN where that of
    `compare_kernels` is. Each costs one product of the factors, [rank, tokens] times [tokens, rank].

    Source: permutation test of a kernel independence statistic (Gretton et al. 2007).
    """
    stacks = [
        KernelStack([record], ComparedTokens.every(record.n_tokens).only(tokens.keep)) for record in (first, second)
    ]
    a, b = (stack.factors[0] for stack in stacks)
    sums = [stack.row_sums()[0, 0] for stack in stacks]
    own = [(factors**2).sum(1) for factors in (a, b)]
    n, norm = len(a), float(np.prod([_norms(_squared_norms(stack), stack)[0, 0] for stack in stacks]))
    mean = sums[0].sum() * sums[1].sum() / ((n - 1) * (n - 2))
    found = np.empty(draws)
    for draw in range(draws):
        order = rng.permutation(n)
        product = ((a.T @ b[order]) ** 2).sum() - own[0] @ own[1][order]
        found[draw] = (product + mean - 2 / (n - 2) * (sums[0] @ sums[1][order])) / norm
    return found
