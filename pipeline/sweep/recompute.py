"""Recomputation of one random cell of a sweep, and its comparison with the lake.

Separate from `pipeline.lake.verify`, which must not import the measurement.
"""

import random
from typing import Any

from pipeline.columns import METRIC_GROUPS, column_names
from pipeline.errors import UsageError
from pipeline.lake import Lake, open_lake
from pipeline.spec import Cell, Similarity, Sweep
from pipeline.sweep.measure_one import measure_with_records
from pipeline.sweep.plan import make_plan

RELATIVE_TOLERANCE = 1e-4
"""Largest relative difference of two numbers that count as equal. Another thread count or device causes less."""


NEIGHBOUR_TOLERANCE = 0.01
"""Largest share of a layer's neighbours that may differ from those in the lake. A difference in the last digit of a
state can swap two neighbours at almost equal distances."""


def recompute_random_cell(sweep: Sweep, lake: Lake, rng: random.Random) -> list[dict[str, str]]:
    """Measure one random committed cell of the sweep again; return the differences from the lake.

    Each difference is a dict with `key` (the cell and the layer) and `found` (a description). The list is empty if the
    results are equal within the tolerances.

    Raises:
        UsageError: no cell of the sweep is committed.
    """
    plan = make_plan(sweep, lake)
    committed = [cell for cell in plan.cells if cell.id in plan.committed]
    if not committed:
        raise UsageError(f"a committed cell of sweep {sweep.name}", "none is in the lake", "Run the sweep first")
    cell = rng.choice(committed)
    known = open_lake(lake.uri).query_frame(f"SELECT * FROM layers WHERE cell_id = '{cell.id}'").to_dicts()
    before = {row["layer"]: row for row in known}
    rows, records = _measured(cell, sweep)
    now = {row["layer"]: row for row in rows}
    if before.keys() != now.keys():
        return [{"key": cell.name, "found": f"layers {sorted(before)} in the lake, {sorted(now)} measured again"}]
    differences = [
        {"key": f"{cell.name}, layer {layer}", "found": f"{name} was {before[layer][name]}, now {row.get(name)}"}
        for layer, row in now.items()
        for name in column_names(*METRIC_GROUPS)
        if _differ(before[layer][name], row.get(name))
    ]
    return differences + (compare_records(cell, lake, records, sweep.similarity) if sweep.similarity else [])


def _measured(cell: Cell, sweep: Sweep) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    ((_, measured),) = measure_with_records([cell], sweep.resources, sweep.similarity)
    return measured.rows, measured.records


def compare_records(cell: Cell, lake: Lake, now: list[dict[str, Any]], similarity: Similarity) -> list[dict[str, str]]:
    """Compare the new similarity records of a cell with those in the lake; return the differences as `key` and `found`.

    A layer is equal if its tokens are the same, its CKA with the earlier record is 1, and its neighbours are the same,
    the last two within the tolerances.
    """
    from pipeline.lake.layout import similarity_key
    from pipeline.lake.similarity_files import decode_rows, encode_records, layer_record
    from pipeline.similarity.kernels import KernelStack, compare_kernels
    from pipeline.similarity.record import ComparedTokens

    key = similarity_key(cell.checkpoint.model_key, cell.id, similarity.name)
    problems = []
    again = decode_rows(encode_records(now, {}))
    for old, new in zip(decode_rows(lake.store.get(key)), again, strict=True):
        where = f"{cell.name}, similarity of layer {old['layer']}"
        first, second = layer_record(old), layer_record(new)
        if old["tokens_digest"] != new["tokens_digest"] or (first is None) != (second is None):
            problems.append({"key": where, "found": "different tokens, or geometry in only one of the two"})
        elif first is not None and second is not None:
            every = ComparedTokens.every(first.n_tokens)
            value = compare_kernels(KernelStack([first], every), KernelStack([second], every)).value[0, 0]
            equal = float((first.neighbours == second.neighbours).mean())
            if value < 1 - RELATIVE_TOLERANCE or equal < 1 - NEIGHBOUR_TOLERANCE:
                problems.append({"key": where, "found": f"CKA {value:.5f} and {equal:.1%} equal neighbours, not 1"})
    return problems


def _differ(before: Any, now: Any) -> bool:
    if isinstance(before, list) and isinstance(now, list | tuple):
        return len(before) != len(now) or any(map(_differ, before, now))
    if isinstance(before, float) and isinstance(now, float | int):
        return abs(before - now) > RELATIVE_TOLERANCE * max(abs(before), abs(now), RELATIVE_TOLERANCE)
    return before != now
