"""Metrics of one layer by column name, from its moments and its point cloud or from a whole matrix of hidden states."""

import time
from typing import Any

import numpy as np
import torch

from pipeline.geometry.accumulator import LayerMoments
from pipeline.geometry.cloud import PointCloud
from pipeline.geometry.input_forms import MatrixLike, to_labels, to_points
from pipeline.geometry.layer import Layer, MetricValues, RowMap
from pipeline.geometry.metrics import metric_groups
from pipeline.geometry.moment_stream import MomentStream
from pipeline.recipe import Recipe, built_in_recipe

DEGENERATE_FLAGS = {"constant_layer", "too_few_tokens", "too_few_points"}


def describe_layer(
    moments: LayerMoments, cloud: PointCloud, recipe: Recipe, read_by_next: RowMap | None = None
) -> dict[str, object]:
    """Return every metric of one layer by column name, with `status`, `flags` and the wall seconds per timing column.

    For every metric that is None, a word in `flags` states the reason, unless it is None by definition, as a standard
    error with one group is. Sums are accumulated in float64. `status` is one of:

    - `nonfinite`: some rows contain NaN or infinity; these rows are left out.
    - `degenerate`: the layer is constant, or has too few tokens or points.
    - `ok`: neither of the two.

    Args:
        read_by_next: input norm of the next block, for the `_normed` columns; None if no block follows.
    """
    layer = Layer(moments, cloud, recipe, read_by_next)
    row: dict[str, object] = {}
    with torch.inference_mode():
        for timing_column in sorted({group.TIMING_COLUMN for group in metric_groups()}):
            started = time.perf_counter()
            row.update(_measure(layer, timing_column))
            row[timing_column] = time.perf_counter() - started
    return {**row, "status": _status(layer.flags), "flags": sorted(layer.flags)}


def describe(
    points: MatrixLike,
    contexts: Any = None,
    token_ids: Any = None,
    recipe: Recipe | str = "standard@1",
    groups: Any = None,
    positions: Any = None,
) -> dict[str, object]:
    """Return the geometry of a matrix of hidden states as one dict; its keys are the metric columns of a lake.

    Args:
        points: hidden states `[N, dim]` or `[contexts, tokens, dim]`, in the model's own dtype, on any device, as a
            tensor, numpy array, DataFrame or nested lists. With the second form, N = contexts * tokens, `contexts` and
            `positions` need not be given, and every label below may also have the shape `[contexts, tokens]` or one
            value per context.
        contexts: `[N]`, id of the context of each row, for `same_context_share`.
        token_ids: `[N]`, token id of each row, for `same_token_share` and the metrics with one point per token type.
        recipe: recipe or its label. Only its `k`, `sink_multiple`, `seed` and `surrogate` are used; `id_authors` is
            computed on all points.
        groups: `[N]`, group of contexts of each row; two or more groups give standard errors.
        positions: `[N]`, position of each row in its context; a row at position 0 is a sink token. Without positions,
            sinks are found by their norm alone.

    Raises:
        UsageError: `points` is not a non-empty matrix of numbers, or labels are not integers or not one per row.
    """
    given = to_points(points)
    rows, shape = given.flatten(0, -2), tuple(given.shape[:-1])
    if len(shape) == 2:
        contexts = np.arange(shape[0]) if contexts is None else contexts
        positions = np.tile(np.arange(shape[1]), shape[0]) if positions is None else positions
    named = {"contexts": contexts, "token_ids": token_ids, "groups": groups, "positions": positions}
    labels = {name: to_labels(name, value, shape, rows.device) for name, value in named.items()}
    recipe = built_in_recipe(recipe) if isinstance(recipe, str) else recipe
    first = torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
    if (position := labels["positions"]) is not None:
        first = position == 0
    if (group := labels["groups"]) is None:
        group = torch.zeros(len(rows), dtype=torch.int64, device=rows.device)
    _, group = group.unique(return_inverse=True)
    order = group.sort(stable=True).indices
    stream = MomentStream([rows.shape[1]], group.bincount().tolist(), recipe.sink_multiple, device=rows.device)
    stream.add_states(0, rows[order])
    stream.end_batch(first[order], group[order])
    cloud = PointCloud(len(rows), rows.shape[1], rows.dtype, rows.device)
    cloud.append(rows, labels["contexts"], labels["token_ids"], group)
    (moments,) = stream.finish()
    return describe_layer(moments, cloud, recipe.model_copy(update={"authors_points": len(rows)}))


def _measure(layer: Layer, timing_column: str) -> MetricValues:
    groups = (group for group in metric_groups() if timing_column == group.TIMING_COLUMN)
    return {column: value for group in groups for column, value in group.measure(layer).items()}


def _status(flags: set[str]) -> str:
    if "nonfinite_rows" in flags:
        return "nonfinite"
    return "degenerate" if flags & DEGENERATE_FLAGS else "ok"
