"""One layer: `describe()` beside the k-NN floor, and all metrics beside those that need least.

The small set is anisotropy, id_authors, id_twonn, id_mle and the counts, and gets what it needs and no more: no cross
scatter, the largest eigenvalue alone, k neighbours instead of 2k. Both sets get two consecutive layers as the demo's
sweep has them: 4 groups x 64 contexts x 128 tokens = 32,768 tokens in the moments, 4 x 1024 points, float32, without
the forward pass, which is the larger part of a sweep.
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
"""Wanted of all metrics over the small set, by width: the demo's."""


def rows(scale: Scale, device: str) -> Iterator[Comparison]:
    yield _described(scale, device)
    for dim in scale.widths:
        yield from _all_over_few(dim)


def _described(scale: Scale, device: str) -> Comparison:
    n, dim, rounds, _ = scale.layer
    points, index = curved(n, dim, device), torch.arange(n)
    work = timed(lambda: describe(points, contexts=index // 4, token_ids=index % 101), device)
    took = interleaved({FLOOR: gemm_floor(points), "ours": work}, rounds)
    subject = Subject("measure", "describe(), all metrics of a layer", n, dim)
    return compared(subject, took["ours"], FLOOR, took[FLOOR], at_most(2.5), unit_on(device))


def _all_over_few(dim: int) -> Iterator[Comparison]:
    recipe = built_in_recipe("quick@1")
    assert isinstance(recipe, ContextRecipe)
    states = [curved(recipe.forwarded_tokens, dim, seed=seed) for seed in range(LAYERS)]
    small, whole = [], []
    for _ in range(ROUNDS):
        small.append(_parts(states, recipe, [None] * LAYERS, few))
        whole.append(_parts(states, recipe, [1, 0], describe_layer))
    for part in _Parts._fields:
        subject = Subject("measure", f"all metrics of a layer: {part}", recipe.forwarded_tokens, dim)
        mine, theirs = ([getattr(parts, part) for parts in rounds] for rounds in (whole, small))
        bound = BOUNDS.get(dim) if part == "both" else None
        yield compared(subject, mine, "the few that need least", theirs, at_most(bound))


class _Parts(NamedTuple):
    """What a layer took: its moments, its metrics, and both."""

    moments: Took
    metrics: Took
    both: Took


def _parts(
    states: list[Tensor],
    recipe: ContextRecipe,
    following: list[int | None],
    describe: Callable[[LayerMoments, PointCloud, ContextRecipe], object],
) -> _Parts:
    start = now()
    layers = streamed(states, recipe, following)
    moments, between = since(start), now()
    for layer, points in zip(layers, states, strict=True):
        describe(layer, sampled(points, recipe), recipe)
    metrics = since(between)
    return _Parts(*(took.times(1 / LAYERS) for took in (moments, metrics, moments.plus(metrics))))


def streamed(states: list[Tensor], recipe: ContextRecipe, following: list[int | None]) -> list[LayerMoments]:
    """Moments of all tokens; the first of each context is a sink."""
    position = torch.arange(len(states[0]))
    per_group = recipe.contexts * recipe.context_tokens
    stream = MomentStream([s.shape[1] for s in states], [per_group] * recipe.groups, recipe.sink_multiple, following)
    for index, points in enumerate(states):
        stream.add_states(index, points)
    stream.end_batch(position % recipe.context_tokens == 0, position // per_group)
    return stream.finish()


def sampled(points: Tensor, recipe: ContextRecipe) -> PointCloud:
    """The kept positions of each context, evenly spaced."""
    kept = torch.arange(0, len(points), recipe.context_tokens // recipe.kept_per_context)
    context = kept // recipe.context_tokens
    cloud = PointCloud(len(kept), points.shape[1], points.dtype)
    cloud.append(points[kept], context, kept % 101, context // recipe.contexts)
    return cloud


def few(moments: LayerMoments, cloud: PointCloud, recipe: ContextRecipe) -> None:
    """The small set, on a graph of k neighbours and without a full decomposition."""
    layer = Layer(moments, cloud, recipe.model_copy(update={"k": recipe.k // 2}))
    with torch.inference_mode():
        counts.measure(layer)
        authors.measure(layer)
        radii = usable_group_radii(layer)
        for estimator in (id_twonn, id_mle):
            mean_over_groups(layer, [estimator(r) for r in radii])
        anisotropy.anisotropy(layer.pooled_moments)
        anisotropy.anisotropy_se(layer)
        anisotropy.anisotropy_no_sink(layer)
        anisotropy.sink_variance_share(layer)
        top_eigenvalue(layer.second_moment)
