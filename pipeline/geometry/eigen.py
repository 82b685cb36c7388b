"""Eigenvalues of symmetric float64 matrices: the full spectrum or the largest one."""

from typing import NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor

DENSE_DIM = 256
"""Largest dim at which the full decomposition is as cheap as Lanczos."""
LANCZOS_STEPS = 128
LANCZOS_RESIDUAL = 1e-10


class EigenDecomposition(NamedTuple):
    """Eigenvalues of a positive semi-definite matrix, descending, and its eigenvectors."""

    values: Float64[Tensor, " dim"]
    vectors: Float64[Tensor, "dim dim"] | None
    """Eigenvectors as columns, in the order of `values`; None if they were not wanted."""


def eigendecompose(matrix: Float64[Tensor, "dim dim"], vectors: bool = False) -> EigenDecomposition:
    """Return all eigenvalues in float64 and, if `vectors` is True, the eigenvectors.

    Eigenvalues that rounding made negative are set to zero.
    """
    if vectors:
        values, columns = torch.linalg.eigh(matrix)
        return EigenDecomposition(values.flip(0).clamp_min(0), columns.flip(1))
    return EigenDecomposition(torch.linalg.eigvalsh(matrix).flip(0).clamp_min(0), None)


def top_eigenvalue(matrix: Float64[Tensor, "dim dim"]) -> float:
    """Return the largest eigenvalue, with a relative error of 1e-10 or, if larger, the error of the full decomposition.

    The method is Lanczos with full reorthogonalisation, from a seeded start vector. The result differs from an
    eigenvalue by no more than the residual. This is the largest eigenvalue unless the start vector is orthogonal to its
    eigenvector. If Lanczos does not converge, or for at most DENSE_DIM dimensions, the matrix is fully decomposed.
    """
    if len(matrix) > DENSE_DIM:
        value, residual = _lanczos(matrix, LANCZOS_STEPS)
        if residual <= LANCZOS_RESIDUAL * value:
            return value
    return float(eigendecompose(matrix).values[0])


def _lanczos(matrix: Float64[Tensor, "dim dim"], steps: int) -> tuple[float, float]:
    """Return the largest Ritz value and its residual after at most `steps` products."""
    generator = torch.Generator().manual_seed(0)
    vector = torch.randn(len(matrix), generator=generator, dtype=torch.float64).to(matrix.device)
    basis = matrix.new_zeros(steps, len(matrix))
    diagonal, off = [], []
    value, residual = 0.0, float("inf")
    vector = vector / vector.norm()
    for step in range(steps):
        basis[step] = vector
        image = matrix @ vector
        diagonal.append(float(vector @ image))
        for _ in range(2):  # two Gram-Schmidt passes restore orthogonality
            image = image - basis[: step + 1].T @ (basis[: step + 1] @ image)
        off.append(float(image.norm()))
        value, last = _ritz(diagonal, off)
        residual = off[-1] * last
        if residual <= LANCZOS_RESIDUAL * value or off[-1] == 0:
            break
        vector = image / off[-1]
    return value, residual


def _ritz(diagonal: list[float], off: list[float]) -> tuple[float, float]:
    """Return the largest eigenvalue of the tridiagonal matrix and |last coordinate| of its eigenvector."""
    side = torch.tensor(off[:-1], dtype=torch.float64)
    small = torch.diag(torch.tensor(diagonal, dtype=torch.float64)) + torch.diag(side, 1) + torch.diag(side, -1)
    values, vectors = torch.linalg.eigh(small)
    return float(values[-1]), abs(float(vectors[-1, -1]))
