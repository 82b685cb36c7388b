"""Tables of the similarity figures: of layers, of checkpoints, and of each block with itself at the last checkpoint."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import polars as pl

from pipeline.analysis.checkpoint_similarity import compare_checkpoints, measure_courses, select_comparable
from pipeline.analysis.frames import select_history_rows, select_newest_rows
from pipeline.analysis.recorded_cells import iter_recorded_histories, recorded_measures
from pipeline.analysis.similarities import CKA, can_compare, compare_layers, jackknife_estimate, shared_tokens
from pipeline.lake.cell_records import CellRecords

MEASURE_TITLES = {CKA: "CKA", "overlap_4": "overlap"}
LANDMARK_BLOCKS = 3
"""Number of blocks in which all checkpoints are compared with each other: the first, the middle and the last."""
MAX_STEPS = 60
"""Largest number of checkpoints per side of a matrix; of a longer history, evenly spread checkpoints are taken."""
COMPARED = "compared_tokens"
"""Column with the number of tokens on which a similarity was computed."""
_SHARED = {"history": pl.String(), "text": pl.String(), "panel": pl.String(), "value": pl.Float64()}
_SHARED |= {COMPARED: pl.Int64()}


def layer_matrices(rows: pl.DataFrame) -> pl.DataFrame:
    """Compare all pairs of layers at the newest checkpoint of each history, one row per pair and measure.

    Columns: `history`, `text`, `step`, `measure`, `panel` (history and measure), `layer`, `other_layer`, `value` (the
    similarity) and `compared_tokens`.
    """
    found = []
    for part, cells in iter_recorded_histories(select_newest_rows(rows)):
        about = {"history": part["history"][0], "text": part["text"][0], "step": part["step"][0]}
        cell, tokens = cells[-1], shared_tokens(cells[-1:])
        layers = sorted(cell.layers)
        records = [cell.layers[layer] for layer in layers]
        for measure in recorded_measures(cells[-1:]) if layers and can_compare(tokens) else ():
            values = compare_layers(records, records, tokens, measure, errors=False).value
            title = MEASURE_TITLES[measure]
            shared = about | {"panel": f"{about['history']}, {title}", "measure": title}
            counts = np.full(values.shape, tokens.count)
            found += _cells_of(values, counts, layers, shared, "layer", "other_layer")
    places = {name: pl.Int64() for name in ("layer", "other_layer", "step")}
    return pl.DataFrame(found, schema=_SHARED | {"measure": pl.String()} | places)


def step_matrices(rows: pl.DataFrame) -> pl.DataFrame:
    """Compare all pairs of checkpoints of each history by CKA in the first, the middle and the last block.

    Columns: `history`, `text`, `panel` (history and block), `step`, `other_step`, `value` (the CKA) and
    `compared_tokens`. A pair is compared on the tokens that are sinks in neither checkpoint; a pair that cannot be
    compared has no row.
    """
    found = []
    for about, cells, steps in _courses(rows):
        chosen = _spread(len(steps), MAX_STEPS)
        cells, steps = [cells[i] for i in chosen], [steps[i] for i in chosen]
        blocks = cells[-1].blocks
        layers = [blocks[i] for i in _spread(len(blocks), LANDMARK_BLOCKS)]
        for layer, values in zip(layers, compare_checkpoints(cells, layers), strict=True):
            shared = about | {"panel": f"{about['history']}, block {layer}"}
            found += _cells_of(values, _count_tokens(cells), steps, shared, "step", "other_step")
    return pl.DataFrame(found, schema={**_SHARED, "step": pl.Int64(), "other_step": pl.Int64()})


def _count_tokens(cells: list[CellRecords]) -> np.ndarray:
    """Count the tokens that are sinks in neither checkpoint of a pair: an array [checkpoints, checkpoints]."""
    ordinary = ~np.stack([cell.sinks for cell in cells])
    return ordinary.astype(int) @ ordinary.T.astype(int)


def _spread(n: int, most: int) -> list[int]:
    """Return at most `most` evenly spread indices of n items; the first and the last item are among them."""
    return np.unique(np.linspace(0, n - 1, min(most, n)).round().astype(int)).tolist()


def settling_curves(rows: pl.DataFrame) -> pl.DataFrame:
    """Compare each block at every checkpoint with itself at the last checkpoint of its history, by CKA.

    Columns: `history`, `text`, `panel` (the history), `value` (the CKA), `compared_tokens`, `layer`, `depth`, `step`,
        and the 95 % interval `low` to `high`, which is null if there are no groups of contexts to leave out.
    """
    found = []
    for about, cells, steps in _courses(rows):
        counts = _count_tokens(cells)[-1]
        for course in measure_courses(cells, CKA):
            for i, at in enumerate(course.at):
                value, low, high = jackknife_estimate(course.value[i], course.without[:, i])
                place = {"layer": course.layer, "depth": course.depth, "step": steps[at], COMPARED: int(counts[at])}
                found.append(about | {"panel": about["history"], "value": value, "low": low, "high": high} | place)
    places = {"layer": pl.Int64(), "depth": pl.Float64(), "step": pl.Int64(), "low": pl.Float64(), "high": pl.Float64()}
    return pl.DataFrame(found, schema=_SHARED | places)


def _courses(rows: pl.DataFrame) -> Iterator[tuple[dict[str, Any], list[CellRecords], list[int]]]:
    """Yield names (`history`, `text`), records and steps of the checkpoints that can be compared with the last one.

    A history with fewer than two such checkpoints, the last one included, is left out.
    """
    for part, cells in iter_recorded_histories(select_history_rows(rows)):
        at = select_comparable(cells).at
        if len(at) > 1:
            about = {"history": part["history"][0], "text": part["text"][0]}
            yield about, [cells[i] for i in at], part["step"][at].to_list()


def _cells_of(
    values: np.ndarray, counts: np.ndarray, names: list[int], shared: dict[str, Any], row: str, column: str
) -> list[dict[str, Any]]:
    return [
        shared | {row: a, column: b, "value": float(values[i, j]), COMPARED: int(counts[i, j])}
        for i, a in enumerate(names)
        for j, b in enumerate(names)
        if np.isfinite(values[i, j])
    ]
