"""Memory plan: how many bytes a layer needs, and which layers are measured in the same pass. It needs no device."""

from collections.abc import Sequence
from itertools import pairwise

import torch

from pipeline.geometry.accumulator import NORM_SAMPLE
from pipeline.geometry.moment_stream import BLOCK_ROWS

WORK_MATRICES = 20
"""Number of dim x dim float64 matrices alive while one layer is described: sums, covariances, eigenvectors."""
WORK_BYTES_PER_COORDINATE = 32
"""Bytes per coordinate of the cloud during neighbour search: stored and normed points, float64 and float32 copies."""
NEIGHBOUR_BYTES = 8192
"""Bytes per point for its neighbour list and candidates, enough for k = 128."""


def plan_passes(
    widths: Sequence[int], n_points: int, groups: int, dtype: torch.dtype, free_bytes: int
) -> list[list[int]]:
    """Return one list of layer indices per pass, with as few passes as memory allows.

    Layers stay in order, and every layer is in exactly one pass. Every pass reads the same tokens, so results do not
    depend on the plan. Each pass also accumulates the layer after its last one, as the target of a linear map. A layer
    that does not fit into memory even alone gets a pass of its own.

    Args:
        widths: width of each layer, in order.
        n_points: points in the cloud of one layer.
        groups: number of groups of contexts.
        dtype: dtype of the model's hidden states.
        free_bytes: free device memory in bytes, after the model and one batch.
    """
    room = free_bytes - describe_bytes(max(widths), n_points)
    plan: list[list[int]] = []
    for layer in range(len(widths)):
        if not plan or pass_bytes(widths[plan[-1][0] : layer + 2], n_points, groups, dtype) > room:
            plan.append([])
        plan[-1].append(layer)
    return plan


def pass_bytes(widths: Sequence[int], n_points: int, groups: int, dtype: torch.dtype) -> int:
    """Return the bytes that one pass over layers of these widths needs.

    These are the bytes of scatters, cross scatters, point clouds, current blocks and norms.
    """
    scatters = sum(2 * groups * width**2 * 8 for width in widths)
    crosses = sum(2 * groups * left * right * 8 for left, right in pairwise(widths))
    rows = sum((n_points + BLOCK_ROWS) * width * dtype.itemsize for width in widths)
    return scatters + crosses + rows + len(widths) * NORM_SAMPLE * 4


def describe_bytes(width: int, n_points: int) -> int:
    """Return the additional bytes needed to describe one layer; layers are described one after another."""
    return WORK_MATRICES * width**2 * 8 + n_points * (WORK_BYTES_PER_COORDINATE * width + NEIGHBOUR_BYTES)
