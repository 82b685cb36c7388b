"""Similarity records: their cost relative to a checkpoint, and the time of all step x step matrices of a history."""

from collections.abc import Callable, Iterator

import numpy as np
import torch

from jobs.bench.checkpoint import BATCH_TOKENS, build, recipe_of
from jobs.bench.comparison import Comparison, Subject, at_most, compared, unit_on, within
from jobs.bench.data import curved
from jobs.bench.scale import Scale
from jobs.bench.timing import interleaved, timed
from pipeline.analysis.similarities import HEADLINES, compare_layers
from pipeline.geometry import record_layer
from pipeline.measure import measure
from pipeline.similarity.masked_kernels import compare_masked_layers
from pipeline.similarity.record import ComparedTokens, LayerRecord
from pipeline.similarity.settings import Similarity

PYTHIA_STEPS, PYTHIA_LAYERS = 154, 25
"""Checkpoints and layers of the largest histories of the catalogue."""
GROUPS = 5


def rows(scale: Scale, device: str) -> Iterator[Comparison]:
    yield from _cost_of_records(scale, device)
    if device == "cpu":
        yield from _step_matrices(scale)


def _cost_of_records(scale: Scale, device: str) -> Iterator[Comparison]:
    """Time the records of all layers against the measurement of the whole checkpoint.

    The time of the records does not include the forward pass, which the measurement needs anyway.
    """
    model, settings = scale.model, Similarity()
    clouds = [curved(settings.tokens, model.dim, device, seed) for seed in range(model.layers + 2)]
    loaded = build(model.layers, model.dim, model.vocabulary, recipe_of(model, device), device)
    took = interleaved(
        {
            "records": timed(lambda: [record_layer(cloud, settings) for cloud in clouds], device),
            "checkpoint": timed(lambda: measure(loaded.cell, loaded.checkpoint, BATCH_TOKENS[device]), device),
        },
        1 if scale.full else model.rounds,
    )
    subject = Subject("similarity", f"records of {len(clouds)} layers", settings.tokens, model.dim)
    wanted = at_most(0.03).only_if(scale.full)
    yield compared(subject, took["records"], "checkpoint, all metrics", took["checkpoint"], wanted, unit_on(device))


def _step_matrices(scale: Scale) -> Iterator[Comparison]:
    """Time the matrices of checkpoints with equal sinks, and of checkpoints with sinks of their own."""
    steps, layers = (PYTHIA_STEPS, PYTHIA_LAYERS) if scale.full else (12, 2)
    tokens = ComparedTokens(np.arange(512) * GROUPS // 512, np.ones(512, bool))
    history = [_random_record(seed) for seed in range(steps)]
    ordinary = np.random.default_rng(0).random((steps, 512)) > 0.01
    compared_by: dict[str, Callable[[], object]] = {
        "CKA and overlap": lambda: [_compare(history, tokens) for _ in range(layers)],
        "CKA, sinks of each checkpoint differ": lambda: compare_masked_layers([(history, ordinary)] * layers),
    }
    for words, compute in compared_by.items():
        took = interleaved({"matrices": timed(compute)}, 2)
        subject = Subject("similarity", f"step x step matrices of {layers} layers, {words}", steps)
        yield within(subject, took["matrices"], 10.0, promised=scale.full)


def _compare(history: list[LayerRecord], tokens: ComparedTokens) -> None:
    for measure_name in HEADLINES:
        compare_layers(history, history, tokens, measure_name, np.float32, errors=False)


def _random_record(seed: int) -> LayerRecord:
    points = np.random.default_rng(seed).standard_normal((512, 64))
    found = record_layer(torch.from_numpy(points), Similarity())
    assert found, "normal points differ"
    return found
