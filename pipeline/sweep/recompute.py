"""Recompute one random cell of a sweep and compare it with the lake.

Apart from `pipeline.lake.verify`, which may not import the measurement.
"""

import random
from typing import Any

from pipeline.columns import METRIC_GROUPS, column_names
from pipeline.errors import UsageError
from pipeline.lake import Lake, open_lake
from pipeline.spec import Cell, Sweep
from pipeline.sweep.measure_one import measure_cells
from pipeline.sweep.plan import make_plan

RELATIVE_TOLERANCE = 1e-4
"""Relative difference beyond what another thread count or device causes."""


def recompute_random_cell(sweep: Sweep, lake: Lake, rng: random.Random) -> list[dict[str, str]]:
    """Measure one committed cell of the sweep again; return the differences as `key` and `found`.

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
    now = {row["layer"]: row for row in _measured(cell, sweep)}
    if before.keys() != now.keys():
        return [{"key": cell.name, "found": f"layers {sorted(before)} in the lake, {sorted(now)} measured again"}]
    return [
        {"key": f"{cell.name}, layer {layer}", "found": f"{name} was {before[layer][name]}, now {row.get(name)}"}
        for layer, row in now.items()
        for name in column_names(*METRIC_GROUPS)
        if _differ(before[layer][name], row.get(name))
    ]


def _measured(cell: Cell, sweep: Sweep) -> list[dict[str, Any]]:
    ((_, rows),) = measure_cells([cell], sweep.resources)
    return rows


def _differ(before: Any, now: Any) -> bool:
    if isinstance(before, list) and isinstance(now, list | tuple):
        return len(before) != len(now) or any(map(_differ, before, now))
    if isinstance(before, float) and isinstance(now, float | int):
        return abs(before - now) > RELATIVE_TOLERANCE * max(abs(before), abs(now), RELATIVE_TOLERANCE)
    return before != now
