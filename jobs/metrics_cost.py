"""What do all metrics cost beside those that need least: anisotropy, id_authors, id_twonn, id_mle and the counts?

Command: python -m jobs.metrics_cost
Two consecutive layers as the demo's sweep has them: 4 groups x 64 contexts x 128 tokens = 32,768 tokens in the moments,
4 x 1024 points, float32. The small set gets what it needs and no more: no cross scatter, the largest eigenvalue alone,
k neighbours instead of 2k. CPU seconds, which other work disturbs less than wall time, in interleaved rounds; without
the forward pass, the larger part of a sweep.
Cost: about two minutes on one core.
Expect: all take 1.3 times as long at the demo's width of 64 (at most 1.6 is wanted there), and 1.5 to 1.7 times at a
width of 768, where nearly all that is added is one product more per block, the cross scatter of linearity.
"""

import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor

from pipeline.geometry import Cloud, LayerMoments, Stream, describe_layer
from pipeline.geometry.eigen import top_eigenvalue
from pipeline.geometry.layer import Layer
from pipeline.geometry.metrics import anisotropy, authors, counts
from pipeline.geometry.metrics.dimension import id_mle, id_twonn
from pipeline.geometry.radii import over_groups, usable
from pipeline.recipe import ContextRecipe, built_in

WIDTHS = (64, 768)
INTRINSIC = 10
ROUNDS = 5
LAYERS = 2


def main() -> None:
    """Print, per width, the median CPU seconds of both sets and the ratio with its spread over the rounds."""
    recipe = built_in("quick@1")
    assert isinstance(recipe, ContextRecipe)
    for dim in WIDTHS:
        states = [made(recipe, dim, seed) for seed in range(LAYERS)]
        small, everything = [], []
        for _ in range(ROUNDS):
            small.append(seconds(states, recipe, [None] * LAYERS, few))
            everything.append(seconds(states, recipe, [1, 0], describe_layer))
        for part, name in enumerate(("moments", "metrics", "both")):
            of_small, of_all = ([took[part] for took in rounds] for rounds in (small, everything))
            ratios = [a / s for a, s in zip(of_all, of_small, strict=True)]
            print(
                f"width {dim:3}  {name:7}  few {median(of_small):6.3f} s  all {median(of_all):6.3f} s per layer"
                f"  ratio {median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
                flush=True,
            )


def made(recipe: ContextRecipe, dim: int, seed: int) -> Tensor:
    """Hidden states on a curved manifold, in token order."""
    generator = torch.Generator().manual_seed(seed)
    inner = torch.randn(recipe.n_contexts * recipe.context_tokens, INTRINSIC, generator=generator)
    return torch.tanh(inner @ torch.randn(INTRINSIC, dim, generator=generator) / 3)


def seconds(
    states: list[Tensor],
    recipe: ContextRecipe,
    following: list[int | None],
    describe: Callable[[LayerMoments, Cloud, ContextRecipe], object],
) -> tuple[float, float, float]:
    """CPU seconds per layer of the moments, of the metrics, and of both."""
    started = time.process_time()
    moments = streamed(states, recipe, following)
    between = time.process_time()
    for layer, rows in zip(moments, states, strict=True):
        describe(layer, sampled(rows, recipe), recipe)
    ended = time.process_time()
    return (between - started) / LAYERS, (ended - between) / LAYERS, (ended - started) / LAYERS


def streamed(states: list[Tensor], recipe: ContextRecipe, following: list[int | None]) -> list[LayerMoments]:
    """Moments of all tokens; the first of each context is a sink."""
    position = torch.arange(len(states[0]))
    per_group = recipe.contexts * recipe.context_tokens
    stream = Stream([s.shape[1] for s in states], [per_group] * recipe.groups, recipe.sink_multiple, following)
    for index, rows in enumerate(states):
        stream.put(index, rows)
    stream.step(position % recipe.context_tokens == 0, position // per_group)
    return stream.close()


def sampled(rows: Tensor, recipe: ContextRecipe) -> Cloud:
    """The kept positions of each context, evenly spaced."""
    kept = torch.arange(0, len(rows), recipe.context_tokens // recipe.kept_per_context)
    context = kept // recipe.context_tokens
    cloud = Cloud(len(kept), rows.shape[1], rows.dtype)
    cloud.put(rows[kept], context, kept % 101, context // recipe.contexts)
    return cloud


def few(moments: LayerMoments, cloud: Cloud, recipe: ContextRecipe) -> None:
    """The small set, on a graph of k neighbours and without a full decomposition."""
    layer = Layer(moments, cloud, recipe.model_copy(update={"k": recipe.k // 2}))
    with torch.inference_mode():
        counts.measure(layer)
        authors.measure(layer)
        radii = usable(layer)
        for estimator in (id_twonn, id_mle):
            over_groups(layer, [estimator(r) for r in radii])
        anisotropy.anisotropy(layer.all)
        anisotropy.anisotropy_se(layer)
        anisotropy.anisotropy_no_sink(layer)
        anisotropy.sink_variance_share(layer)
        top_eigenvalue(layer.second_moment)


if __name__ == "__main__":
    main()
