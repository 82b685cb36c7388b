"""Large lakes: cost of commands as a lake grows, time of queries and plans, and requests to an object store."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from jobs.bench.cell_files import checkpoint, write_cell, write_cells
from jobs.bench.comparison import Comparison, Subject, at_most, within
from jobs.bench.lake_child import COLD_PLAN, FIRST, MODEL, STEPS, WARM_PLAN, stub_sweep
from jobs.bench.lake_costs import Cost, cost_rows, cpu_row, run_step
from jobs.bench.lake_requests import request_rows
from jobs.bench.scale import Scale
from jobs.bench.stub import stub_history
from jobs.bench.timing import interleaved, timed
from pipeline.lake import Lake, open_lake
from pipeline.lake.manifest import LATEST_KEY, SNAPSHOTS_PREFIX
from pipeline.sweep.plan import make_plan

ROUNDS = 5
MODELS = 50
TEXTS = tuple((f"text:{corpus}", f"recipe@{recipe}") for corpus in range(5) for recipe in range(2))
"""Pairs of a corpus and a recipe; every checkpoint has one cell for each pair."""
WANTED = 16
PLAN_LIMIT_S, OPENING_LIMIT_S, QUERY_LIMIT_S = 1.0, 1.0, 0.2
QUERY = f"SELECT step, anisotropy, id_twonn FROM layers WHERE model = '{MODEL}' AND layer = 1 ORDER BY ALL"


class GrowingLake:
    """Lake in a folder to which `grow` adds cells; from the start, it has the cells of a few stub checkpoints."""

    def __init__(self, root: Path) -> None:
        self.lake = Lake(root / "lake")
        self.stubs = stub_history(root / "stubs", WANTED)
        self.checkpoints = 0
        """Number of checkpoints in the lake, the stubs not counted."""
        plan = make_plan(stub_sweep(self.stubs, "quick@1"), self.lake)
        assert len(plan.todo) == WANTED
        for cell in plan.cells:
            write_cell(self.lake, cell.checkpoint, cell.id, "random-uniform", "quick@1")
        self.lake.record_labels(plan.checkpoints)

    @property
    def cells(self) -> int:
        return self.checkpoints * len(TEXTS) + WANTED

    def grow(self, cells: int) -> None:
        """Add checkpoints until the lake has about `cells` cells."""
        until = max((cells - WANTED) // len(TEXTS), self.checkpoints + 1)
        added = [checkpoint(index, MODELS) for index in range(self.checkpoints, until)]
        write_cells(self.lake, added, TEXTS)
        self.lake.record_labels(added)
        self.checkpoints = until

    def drop_snapshots(self) -> None:
        """Delete the snapshots, so that the next one is the first."""
        Path(self.lake.uri, LATEST_KEY).unlink(missing_ok=True)
        shutil.rmtree(Path(self.lake.uri, SNAPSHOTS_PREFIX), ignore_errors=True)


def rows(scale: Scale, device: str) -> Iterator[Comparison]:
    with tempfile.TemporaryDirectory() as folder:
        growing = GrowingLake(Path(folder))
        costs = {size: _measure_steps(growing, size, scale.new_cells) for size in scale.lakes}
        yield from cost_rows(costs, scale.full)
        yield from _time_queries(growing, scale)
        yield from _time_plans(growing, scale)
    yield from _plan_local_checkpoints(scale)
    yield from request_rows(scale)


def _measure_steps(growing: GrowingLake, size: int, new_cells: int) -> dict[str, Cost]:
    """Grow the lake to `size` cells, run each command of STEPS in order, and return the cost of each by its name.

    After the first compaction, about `new_cells` cells are added, so that the later commands find cells that the
    snapshot lacks.
    """
    growing.grow(size)
    growing.drop_snapshots()
    costs = {}
    for step in STEPS:
        costs[step] = run_step(step, growing.lake.uri, growing.stubs)
        if step == FIRST:
            growing.grow(growing.cells + new_cells)
    return costs


def _time_plans(growing: GrowingLake, scale: Scale) -> Iterator[Comparison]:
    """Time the plan of a finished sweep, and the plan of a sweep over the same checkpoints with another recipe.

    Each plan opens the lake anew.
    """
    for case, recipe, todo in (("of a finished sweep", "quick@1", 0), ("of known checkpoints", "standard@1", WANTED)):
        sweep = stub_sweep(growing.stubs, recipe)
        assert len(make_plan(sweep, growing.lake).todo) == todo
        plan = timed(lambda sweep=sweep: make_plan(sweep, Lake(growing.lake.uri)))
        took = interleaved({"plan": plan}, ROUNDS)["plan"]
        subject = Subject("lake", f"plan {case} over a lake of cells", growing.cells)
        yield within(subject, took, PLAN_LIMIT_S, f"{growing.checkpoints:,} labels", scale.full)


def _plan_local_checkpoints(scale: Scale) -> Iterator[Comparison]:
    """Plan a sweep over many local checkpoints twice: the second plan finds their checksums in the cache."""
    with tempfile.TemporaryDirectory() as folder:
        stubs = stub_history(Path(folder, "stubs"), scale.local_checkpoints)
        first, second = (run_step(step, str(Path(folder, "lake")), stubs) for step in (COLD_PLAN, WARM_PLAN))
        warm = Subject("lake", WARM_PLAN, scale.local_checkpoints)
        yield cpu_row(warm, second, scale.full)
        yield Comparison(warm, "first plan", "CPU s", [second.cpu], [first.cpu], at_most())


def _time_queries(growing: GrowingLake, scale: Scale) -> Iterator[Comparison]:
    reader = open_lake(growing.lake.uri)
    found = reader.query_frame(QUERY)
    mine = sum(checkpoint(index, MODELS).model == MODEL for index in range(growing.checkpoints))
    assert len(found) == mine * len(TEXTS) + WANTED, found
    contenders = {
        "query": timed(lambda: reader.query_frame(QUERY)),
        "opening": timed(lambda: open_lake(growing.lake.uri)),
    }
    took = interleaved(contenders, ROUNDS)
    query = Subject("lake", "query by model and layer, snapshot", growing.cells)
    yield within(query, took["query"], QUERY_LIMIT_S, promised=scale.full)
    opening = Subject("lake", "opening a lake for reading", growing.cells)
    yield within(opening, took["opening"], OPENING_LIMIT_S, promised=scale.full)
