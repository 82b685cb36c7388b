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
    the last two within the tolerances. A damaged file of the lake is one difference.
    """
    from pipeline.lake.layout import similarity_key
    from pipeline.lake.similarity_files import decode_rows, encode_records, find_record_file_problem

    key = similarity_key(cell.checkpoint.model_key, cell.id, similarity.name)
    data = lake.store.get_or_reason(key)
    found = data if isinstance(data, str) else find_record_file_problem(key, data)
    if found or isinstance(data, str):
        return [{"key": key, "found": f"not compared with the records made again: {found}"}]
    before, again = ({row["layer"]: row for row in decode_rows(each)} for each in (data, encode_records(now, {})))
    if before.keys() != again.keys():
        found = f"layers {sorted(before)} in the lake, {sorted(again)} recorded again"
        return [{"key": f"{cell.name}, similarity", "found": found}]
    differences = {layer: _find_record_difference(before[layer], again[layer]) for layer in before}
    where = f"{cell.name}, similarity of layer"
    return [{"key": f"{where} {layer}", "found": found} for layer, found in differences.items() if found]


def _find_record_difference(old: dict[str, Any], new: dict[str, Any]) -> str | None:
    from pipeline.lake.similarity_files import layer_record
    from pipeline.similarity.kernels import KernelStack, compare_kernels
    from pipeline.similarity.record import ComparedTokens

    first, second = layer_record(old), layer_record(new)
    if old["tokens_digest"] != new["tokens_digest"] or (first is None) != (second is None):
        return "different tokens, or geometry in only one of the two"
    if first is None or second is None:
        return None
    every = ComparedTokens.every(first.n_tokens)
    value = compare_kernels(KernelStack([first], every), KernelStack([second], every)).value[0, 0]
    equal = float((first.neighbours == second.neighbours).mean())
    if value >= 1 - RELATIVE_TOLERANCE and equal >= 1 - NEIGHBOUR_TOLERANCE:
        return None
    return f"CKA {value:.5f} and {equal:.1%} equal neighbours, not 1"


def _differ(before: Any, now: Any) -> bool:
    if isinstance(before, list) and isinstance(now, list | tuple):
        return len(before) != len(now) or any(map(_differ, before, now))
    if isinstance(before, float) and isinstance(now, float | int):
        return abs(before - now) > RELATIVE_TOLERANCE * max(abs(before), abs(now), RELATIVE_TOLERANCE)
    return before != now
