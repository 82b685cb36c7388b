"""Tables of the similarity figures: between layers, between checkpoints, and of each block with its last state."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import polars as pl

from pipeline.analysis.frames import select_history_rows, select_newest_rows
from pipeline.analysis.recorded_cells import get_layers, iter_recorded_histories, recorded_measures, shared_blocks
from pipeline.analysis.settling import measure_courses
from pipeline.analysis.similarities import (
    CKA,
    can_compare,
    compare_layers,
    jackknife_estimate,
    shared_tokens,
)
from pipeline.lake.cell_records import CellRecords

MEASURE_TITLES = {CKA: "CKA", "overlap_4": "overlap"}
LANDMARK_BLOCKS = 3
"""Blocks whose checkpoints are compared with each other: the first, the middle and the last."""
MAX_STEPS = 60
"""Most checkpoints per side of a matrix; longer histories are thinned evenly."""
_SHARED = {"history": pl.String(), "text": pl.String(), "panel": pl.String(), "value": pl.Float64()}


def layer_matrices(rows: pl.DataFrame) -> pl.DataFrame:
    """Similarity of all pairs of layers at the newest checkpoint: `layer`, `other_layer`, `value`, by `panel`."""
    found = []
    for about, cells in _histories(select_newest_rows(rows)):
        cell, tokens = cells[-1], shared_tokens(cells[-1:])
        layers = sorted(cell.layers)
        records = [cell.layers[layer] for layer in layers]
        for measure in recorded_measures(cells[-1:]) if can_compare(tokens) else ():
            values = compare_layers(records, records, tokens, measure, errors=False).value
            shared = about | {"panel": f"{about['history']}, {MEASURE_TITLES[measure]}"}
            found += _cells_of(values, layers, shared, "layer", "other_layer")
    return pl.DataFrame(found, schema={**_SHARED, "layer": pl.Int64(), "other_layer": pl.Int64()})


def step_matrices(rows: pl.DataFrame) -> pl.DataFrame:
    """CKA of all pairs of checkpoints of the first, the middle and the last block: `step`, `other_step`, `value`."""
    found = []
    for about, cells, steps in _courses(rows):
        chosen = np.unique(np.linspace(0, len(steps) - 1, min(MAX_STEPS, len(steps))).round().astype(int))
        blocks, tokens = shared_blocks(cells), shared_tokens(cells)
        for layer in [
            blocks[i] for i in np.unique(np.linspace(0, len(blocks) - 1, LANDMARK_BLOCKS).round().astype(int))
        ]:
            records = get_layers([cells[i] for i in chosen], layer)
            values = compare_layers(records, records, tokens, CKA, np.float32).value
            shared = about | {"panel": f"{about['history']}, block {layer}"}
            found += _cells_of(values, [steps[i] for i in chosen], shared, "step", "other_step")
    return pl.DataFrame(found, schema={**_SHARED, "step": pl.Int64(), "other_step": pl.Int64()})


def settling_curves(rows: pl.DataFrame) -> pl.DataFrame:
    """CKA of each block with its own last state over training, with its 95 % interval (`low`, `high`)."""
    found = []
    for about, cells, steps in _courses(rows):
        for course in measure_courses(cells, shared_tokens(cells), CKA):
            for at, step in enumerate(steps):
                value, low, high = jackknife_estimate(course.value[at], course.without[:, at])
                place = {"layer": course.layer, "depth": course.depth, "step": step}
                found.append(about | {"panel": about["history"], "value": value, "low": low, "high": high} | place)
    places = {"layer": pl.Int64(), "depth": pl.Float64(), "step": pl.Int64(), "low": pl.Float64(), "high": pl.Float64()}
    return pl.DataFrame(found, schema=_SHARED | places)


def _histories(rows: pl.DataFrame) -> Iterator[tuple[dict[str, Any], list[CellRecords]]]:
    for part, cells in iter_recorded_histories(rows):
        yield {"history": part["history"][0], "text": part["text"][0]}, cells


def _courses(rows: pl.DataFrame) -> Iterator[tuple[dict[str, Any], list[CellRecords], list[int]]]:
    """Histories of two checkpoints or more, with their steps."""
    for part, cells in iter_recorded_histories(select_history_rows(rows)):
        if len(cells) > 1 and can_compare(shared_tokens(cells)):
            yield {"history": part["history"][0], "text": part["text"][0]}, cells, part["step"].to_list()


def _cells_of(
    values: np.ndarray, names: list[int], shared: dict[str, Any], row: str, column: str
) -> list[dict[str, Any]]:
    return [
        shared | {row: a, column: b, "value": float(values[i, j])}
        for i, a in enumerate(names)
        for j, b in enumerate(names)
        if np.isfinite(values[i, j])
    ]
