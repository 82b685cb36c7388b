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
        """Eigenvalues of the covariance, and its eigenvectors if a linear map is fitted or there are several groups."""
        return eigendecompose(self.covariance, vectors=self.n_groups > 1 or bool(self.sums.cross_scatters))

    @cached_property
    def second_moment_eigen(self) -> EigenDecomposition:
        """Eigenvalues of the uncentered second moment, and its eigenvectors if there are two or more groups."""
        return eigendecompose(self.second_moment, vectors=self.n_groups > 1)

    def is_spread(self, part: Moments) -> bool:
        """Return True if a subset of the tokens has two or more tokens that differ from each other beyond rounding.

        Rounding means rounding of the mean, and cancellation in the variance, which is a difference of sums about a
        shift that may be distant. For 20,000 constant rows of any dim, the computed variance is up to 2^-45 of the mean
        |x - shift|^2 (2^-15 with float32 products). A spread below 1e-6 of the distance to the shift (8e-3 with float32
        products) therefore cannot be told from rounding.

        Args:
            part: moments of the subset.
        """
        if part.count < 2:
            return False
        cancellation = 2.0**-40 if product_dtype(part.shifted_sum.device) == torch.float64 else 2.0**-14
        rounding = 2.0**-96 * float(self.second_moment.trace())
        rounding += cancellation * float(part.scatter.trace()) / part.count
        return float(part.covariance().trace()) > rounding

    def eigenvalue_floor(self, largest: float) -> float:
        """Return the noise floor of a spectrum whose largest eigenvalue is `largest`.

        The floor is the larger of two numbers:

        - the resolution of the decomposition: `dim * 2^-52 * largest`, or `2^-20 * largest` with float32 products;
        - the variance from rounding activations to their dtype: `unit^2 * median_j E[x_j^2] / 3`, where unit is the
          rounding unit and j a coordinate.
        """
        dim, device = len(self.second_moment), self.second_moment.device
        resolution = dim * 2.0**-52 if product_dtype(device) == torch.float64 else 2.0**-20
        rounding = UNIT_ROUNDOFF[self._dtype] ** 2 * float(self.second_moment.diagonal().median()) / 3
        return max(resolution * largest, rounding)

    def count_above_floor(self, values: Float64[Tensor, " dim"]) -> int:
        """Count the eigenvalues above the noise floor; `values` are in descending order."""
        return int((values > self.eigenvalue_floor(float(values[0]))).sum())

    def without_each_group(self) -> Iterator[Moments | None]:
        """For each group in order, yield the moments of the tokens of all other groups; None if these do not vary.

        With one group, nothing is yielded. The moments are not returned as a list, because each takes as much memory as
        a scatter.
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
        """For each group, the eigenvalues of the covariance C of all other groups, to first order: v_i' C v_i.

        v_i are the eigenvectors of the covariance of all tokens, so that one product per group replaces a
        decomposition. The list is empty with one group. An item is None if the tokens of the other groups do not vary.
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
        """For each group, the eigenvalues of the uncentered second moment M of all other groups, to first order.

        They are v_i' M v_i, with the eigenvectors v_i of the second moment of all tokens. The list is empty with one
        group. An item is None if the tokens of the other groups do not vary.
        """
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
        """Return v_i' S_g v_i and v_i' s_g for each group g and eigenvector v_i, a column of `vectors`.

        S_g is the scatter and s_g the sum of the rows of group g, both about the shift.
        """
        quadratic = torch.stack([((group.scatter @ vectors) * vectors).sum(0) for group in self.sums.moments])
        return quadratic, torch.stack([group.shifted_sum @ vectors for group in self.sums.moments])
