"""Set of tokens of one layer (all, or all except sinks): moments, spectra and leave-one-group-out values."""

from collections.abc import Iterator
from functools import cached_property

import torch
from jaxtyping import Float64
from torch import Tensor

from pipeline.geometry.accumulator import TokenSums
from pipeline.geometry.eigen import EigenDecomposition, eigendecompose
from pipeline.geometry.moments import Moments, merge_without
from pipeline.geometry.precision import UNIT_ROUNDOFF, product_dtype


class Population:
    """Moments of a set of tokens, with cached spectra.

    Args:
        sums: float64 sums of the tokens, by group.
        dtype: dtype of the rows as the model produced them.
    """

    def __init__(self, sums: TokenSums, dtype: torch.dtype) -> None:
        self.sums, self._dtype = sums, dtype

    @property
    def n_groups(self) -> int:
        return len(self.sums.moments)

    @cached_property
    def pooled(self) -> Moments:
        """Moments of the tokens of all groups."""
        return self.sums.pooled

    @cached_property
    def covariance(self) -> Float64[Tensor, "dim dim"]:
        return self.pooled.covariance()

    @cached_property
    def second_moment(self) -> Float64[Tensor, "dim dim"]:
        return self.pooled.second_moment()

    @cached_property
    def covariance_eigen(self) -> EigenDecomposition:
        """Eigenvalues of the covariance, with eigenvectors if a linear map or leave-one-group-out values need them."""
        return eigendecompose(self.covariance, vectors=self.n_groups > 1 or bool(self.sums.cross_scatters))

    @cached_property
    def second_moment_eigen(self) -> EigenDecomposition:
        """Eigenvalues of the uncentered second moment, with eigenvectors if leave-one-group-out values need them."""
        return eigendecompose(self.second_moment, vectors=self.n_groups > 1)

    def is_spread(self, part: Moments) -> bool:
        """Return True if `part`, moments of a subset of the tokens, has two or more tokens that differ beyond rounding.

        The bound covers rounding of the mean and cancellation in the variance, which is a difference of sums about a
        possibly distant shift: for constant rows the computed variance is up to 2^-45 of the mean |x - shift|^2 at any
        dim (20,000 rows, float64 products; 2^-15 with float32 products). A spread below 1e-6 (float32: 8e-3) of the
        distance to the shift is therefore indistinguishable from rounding.
        """
        if part.count < 2:
            return False
        cancellation = 2.0**-40 if product_dtype(part.shifted_sum.device) == torch.float64 else 2.0**-14
        rounding = 2.0**-96 * float(self.second_moment.trace())
        rounding += cancellation * float(part.scatter.trace()) / part.count
        return float(part.covariance().trace()) > rounding

    def eigenvalue_floor(self, largest: float) -> float:
        """Return the noise floor of a spectrum whose largest eigenvalue is `largest`.

        The floor is the larger of `dim * 2^-52 * largest` (resolution of a float64 decomposition; `2^-20 * largest`
        with float32 products) and `unit^2 * median_j E[x_j^2] / 3` (variance of rounding activations to their dtype).
        """
        dim, device = len(self.second_moment), self.second_moment.device
        resolution = dim * 2.0**-52 if product_dtype(device) == torch.float64 else 2.0**-20
        rounding = UNIT_ROUNDOFF[self._dtype] ** 2 * float(self.second_moment.diagonal().median()) / 3
        return max(resolution * largest, rounding)

    def count_above_floor(self, values: Float64[Tensor, " dim"]) -> int:
        """Count the eigenvalues above the noise floor; `values` are in descending order."""
        return int((values > self.eigenvalue_floor(float(values[0]))).sum())

    def without_each_group(self) -> Iterator[Moments | None]:
        """Yield the leave-one-group-out moments, if there are two or more groups; None if the other tokens do not vary.

        They are yielded one at a time, because each is as large as a scatter.
        """
        groups = self.sums.moments
        for index in range(len(groups)) if len(groups) > 1 else ():
            rest = merge_without(groups, index)
            yield rest if self.is_spread(rest) else None

    @cached_property
    def _varies_without(self) -> list[bool]:
        return [rest is not None for rest in self.without_each_group()]

    @cached_property
    def covariance_values_without_groups(self) -> list[Float64[Tensor, " dim"] | None]:
        """Return the leave-one-group-out eigenvalues of the covariance C, to first order: v_i' C v_i.

        v_i are the eigenvectors of the pooled covariance, so that one product per group replaces a decomposition. Empty
        with one group; an item is None if the other tokens do not vary.
        """
        vectors = self.covariance_eigen.vectors
        if vectors is None or self.n_groups < 2:
            return []
        quadratic, linear = self._in_basis(vectors)
        count = torch.stack([group.count_tensor for group in self.sums.moments])
        n = (count.sum() - count)[:, None]
        squares, means = quadratic.sum(0) - quadratic, (linear.sum(0) - linear) / n
        return self._where_varies(((squares - n * means.square()) / (n - 1)).clamp_min(0))

    @cached_property
    def second_moment_values_without_groups(self) -> list[Float64[Tensor, " dim"] | None]:
        """Return the leave-one-group-out eigenvalues of the uncentered second moment M, to first order: v_i' M v_i."""
        vectors = self.second_moment_eigen.vectors
        if vectors is None:
            return []
        quadratic, linear = self._in_basis(vectors)
        count = torch.stack([group.count_tensor for group in self.sums.moments])
        n, shift = (count.sum() - count)[:, None], self.pooled.shift @ vectors
        squares, sums = quadratic.sum(0) - quadratic, linear.sum(0) - linear
        return self._where_varies((squares / n + 2 * shift * sums / n + shift.square()).clamp_min(0))

    def _where_varies(self, values: Float64[Tensor, "groups dim"]) -> list[Float64[Tensor, " dim"] | None]:
        return [row if varies else None for row, varies in zip(values, self._varies_without, strict=True)]

    def _in_basis(
        self, vectors: Float64[Tensor, "dim dim"]
    ) -> tuple[Float64[Tensor, "groups dim"], Float64[Tensor, "groups dim"]]:
        """Return v_i' S_g v_i and v_i' s_g, where S_g is the scatter and s_g the sum of group g about the shift."""
        quadratic = torch.stack([((group.scatter @ vectors) * vectors).sum(0) for group in self.sums.moments])
        return quadratic, torch.stack([group.shifted_sum @ vectors for group in self.sums.moments])
