"""Bytes before the first batch: what a layer needs while it is measured, and which layers fit together."""

from collections.abc import Sequence
from itertools import pairwise

import torch

from pipeline.geometry.accumulator import NORM_SAMPLE
from pipeline.geometry.moment_stream import BLOCK_ROWS

WORK_MATRICES = 12
"""dim x dim float64 matrices alive at once while one layer is described: its sums, covariances, eigenvectors."""
WORK_BYTES_PER_COORDINATE = 24
"""Bytes per coordinate of the cloud while its neighbours are searched: stored, shifted in float64 and float32."""
NEIGHBOUR_BYTES = 8192
"""Per point: its list and candidates, with room for k = 128."""


def plan_passes(
    widths: Sequence[int], n_points: int, groups: int, dtype: torch.dtype, free_bytes: int
) -> list[list[int]]:
    """Layers in as few runs as fit, in order; every layer is in one of them.

    A run is measured in a pass of its own over the same tokens, so its numbers do not depend on the plan. With the
    layers of a run goes the one after its last, to which that one's linear map leads. A layer that does not fit
    makes a run of its own.

    Args:
        widths: of the layers, in order.
        n_points: rows of the k-NN cloud of one layer.
        groups: of contexts.
        dtype: in which the model makes its states.
        free_bytes: of the device, beside the model and one batch.
    """
    room = free_bytes - describe_bytes(max(widths), n_points)
    plan: list[list[int]] = []
    for layer in range(len(widths)):
        if not plan or pass_bytes(widths[plan[-1][0] : layer + 2], n_points, groups, dtype) > room:
            plan.append([])
        plan[-1].append(layer)
    return plan


def pass_bytes(widths: Sequence[int], n_points: int, groups: int, dtype: torch.dtype) -> int:
    """What one pass keeps of layers of these widths: scatters, cross scatters, points, current blocks, norms."""
    scatters = sum(2 * groups * width**2 * 8 for width in widths)
    crosses = sum(left * right * 8 for left, right in pairwise(widths))
    rows = sum((n_points + BLOCK_ROWS) * width * dtype.itemsize for width in widths)
    return scatters + crosses + rows + len(widths) * NORM_SAMPLE * 4


def describe_bytes(width: int, n_points: int) -> int:
    """What describing one layer needs beside: one at a time."""
    return WORK_MATRICES * width**2 * 8 + n_points * (WORK_BYTES_PER_COORDINATE * width + NEIGHBOUR_BYTES)
