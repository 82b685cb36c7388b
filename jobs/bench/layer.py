"""One layer: `describe()` against the GEMM floor, and all metrics against a minimal set.

The minimal set is anisotropy, id_authors, id_twonn, id_mle and the counts, computed with only what they need: no cross
scatter, only the largest eigenvalue, k neighbours instead of 2k. Both sets measure two consecutive layers as in the
demo's sweep: 4 groups x 64 contexts x 128 tokens = 32,768 tokens in the moments, 4 x 1024 points, float32, without the
forward pass, which is the larger part of a sweep.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from jobs.bench.comparison import Comparison, Subject, at_most, compared, unit_on
from jobs.bench.data import curved, gemm_floor
from jobs.bench.knn import FLOOR
from jobs.bench.scale import Scale
from jobs.bench.timing import Took, interleaved, now, since, timed
from pipeline.geometry import LayerMoments, MomentStream, PointCloud, describe, describe_layer
from pipeline.geometry.eigen import top_eigenvalue
from pipeline.geometry.group_estimates import mean_over_groups, usable_group_radii
from pipeline.geometry.layer import Layer
from pipeline.geometry.metrics import anisotropy, authors, counts
from pipeline.geometry.metrics.dimension import id_mle, id_twonn
from pipeline.recipe import ContextRecipe, built_in_recipe

ROUNDS = 5
LAYERS = 2
BOUNDS = {64: 1.6}
"""Target cost of all metrics relative to the minimal set, by width; 64 is the demo's."""


def rows(scale: Scale, device: str) -> Iterator[Comparison]:
    yield _compare_describe(scale, device)
    for dim in scale.widths:
        yield from _compare_metric_sets(dim)


def _compare_describe(scale: Scale, device: str) -> Comparison:
    n, dim, rounds, _ = scale.layer
    points, index = curved(n, dim, device), torch.arange(n)
    work = timed(lambda: describe(points, contexts=index // 4, token_ids=index % 101), device)
    took = interleaved({FLOOR: gemm_floor(points), "ours": work}, rounds)
    subject = Subject("measure", "describe(), all metrics of a layer", n, dim)
    return compared(subject, took["ours"], FLOOR, took[FLOOR], at_most(2.5), unit_on(device))


def _compare_metric_sets(dim: int) -> Iterator[Comparison]:
    recipe = built_in_recipe("quick@1")
    assert isinstance(recipe, ContextRecipe)
    states = [curved(recipe.forwarded_tokens, dim, seed=seed) for seed in range(LAYERS)]
    minimal, full = [], []
    for _ in range(ROUNDS):
        minimal.append(_parts(states, recipe, [None] * LAYERS, measure_minimal))
        full.append(_parts(states, recipe, [1, 0], describe_layer))
    for part in _Parts._fields:
        subject = Subject("measure", f"all metrics of a layer: {part}", recipe.forwarded_tokens, dim)
        mine, theirs = ([getattr(parts, part) for parts in rounds] for rounds in (full, minimal))
        bound = BOUNDS.get(dim) if part == "total" else None
        yield compared(subject, mine, "minimal metric set", theirs, at_most(bound))


class _Parts(NamedTuple):
    """Times of one round, divided by the number of layers."""

    moments: Took
    metrics: Took
    total: Took


def _parts(
    states: list[Tensor],
    recipe: ContextRecipe,
    following: list[int | None],
    describe: Callable[[LayerMoments, PointCloud, ContextRecipe], object],
) -> _Parts:
    start = now()
    layers = stream_moments(states, recipe, following)
    moments, between = since(start), now()
    for layer, points in zip(layers, states, strict=True):
        describe(layer, sample_cloud(points, recipe), recipe)
    metrics = since(between)
    return _Parts(*(took.times(1 / LAYERS) for took in (moments, metrics, moments.plus(metrics))))


def stream_moments(states: list[Tensor], recipe: ContextRecipe, following: list[int | None]) -> list[LayerMoments]:
    """Return the moments of all tokens; the first token of each context is a sink token."""
    position = torch.arange(len(states[0]))
    per_group = recipe.contexts * recipe.context_tokens
    stream = MomentStream([s.shape[1] for s in states], [per_group] * recipe.groups, recipe.sink_multiple, following)
    for index, points in enumerate(states):
        stream.add_states(index, points)
    stream.end_batch(position % recipe.context_tokens == 0, position // per_group)
    return stream.finish()


def sample_cloud(points: Tensor, recipe: ContextRecipe) -> PointCloud:
    """Return the point cloud of evenly spaced positions of each context."""
    kept = torch.arange(0, len(points), recipe.context_tokens // recipe.kept_per_context)
    context = kept // recipe.context_tokens
    cloud = PointCloud(len(kept), points.shape[1], points.dtype)
    cloud.append(points[kept], context, kept % 101, context // recipe.contexts)
    return cloud


def measure_minimal(moments: LayerMoments, cloud: PointCloud, recipe: ContextRecipe) -> None:
    """Compute the minimal metric set, on a graph of k neighbours and without a full eigendecomposition."""
    layer = Layer(moments, cloud, recipe.model_copy(update={"k": recipe.k // 2}))
    with torch.inference_mode():
        counts.measure(layer)
        authors.measure(layer)
        radii = usable_group_radii(layer)
        for estimator in (id_twonn, id_mle):
            mean_over_groups(layer, [None if r is None else estimator(r) for r in radii])
        anisotropy.anisotropy(layer.every.pooled)
        anisotropy.anisotropy_groups(layer, layer.every)
        anisotropy.anisotropy(layer.ordinary.pooled)
        anisotropy.sink_variance_share(layer)
        top_eigenvalue(layer.every.second_moment)
