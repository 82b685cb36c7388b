"""Cost estimate of a run before it starts: bytes to download, disk space, hours."""

from collections.abc import Sequence
from typing import NamedTuple

from pipeline.spec import Cell, Resources, Similarity
from pipeline.sweep.prior_results import PriorResults

FLOPS_PER_CORE, FLOPS_PER_GPU = 20e9, 150e12
"""Assumed forward-pass throughput of a server core in float32 and of a data-centre GPU in bfloat16; rough figures."""


class Cost(NamedTuple):
    """Estimate for the cells to run."""

    download_bytes: int
    """Bytes to download, with each checkpoint counted once."""
    disk_bytes: int
    """Largest disk space in bytes that fetched checkpoints take at one time, summed over all nodes."""
    hours: float | None
    """Total time of the cells, as if one slot ran them one after another. None if a cell has neither a measured
    duration nor a model of known size."""
    unit: str
    """Unit of `hours`: `GPU-hours`, or `hours` (of one CPU slot)."""
    basis: str
    """Origin of `hours`: durations measured in this lake, an assumed throughput, or both."""


class RecordCost(NamedTuple):
    """Number and size of the similarity records that the cells to run will get."""

    cells: int = 0
    """Number of cells that will get records."""
    bytes_per_layer: int = 0
    """Uncompressed bytes of one layer's record; compression saves little."""
    bytes: int | None = 0
    """Bytes of all records; None if the config.json of a model does not state its number of blocks."""


STATES_BESIDE_BLOCKS = 2
"""Number of hidden states that are not block outputs: the embedding, and the state after the final norm."""


def estimate_records(todo: Sequence[Cell], similarity: Similarity | None) -> RecordCost:
    """Estimate the number and bytes of the similarity records to make; config.json states the layers of each model."""
    if similarity is None:
        return RecordCost()
    blocks = [cell.checkpoint.n_blocks for cell in todo]
    known = [count + STATES_BESIDE_BLOCKS for count in blocks if count is not None]
    total = similarity.bytes_per_layer * sum(known) if len(known) == len(todo) else None
    return RecordCost(len(todo), similarity.bytes_per_layer, total)


def estimate_cost(todo: Sequence[Cell], past: PriorResults, resources: Resources) -> Cost:
    """Estimate download, disk space and time.

    The time of a cell is the mean time of similar cells of the same model in the lake. If there are none, it is
    computed from the FLOPs of the forward passes.
    """
    sizes = {cell.checkpoint.content: cell.checkpoint.download_bytes for cell in todo}
    at_once = resources.n_slots * (1 + resources.prefetch)
    disk = sum(sorted(sizes.values(), reverse=True)[:at_once])
    if resources.scratch_gb is not None:
        disk = min(disk, int(resources.scratch_gb * 1e9))
    measured = [past.mean_seconds(cell, resources.gpus > 0) for cell in todo]
    by_size = [_arithmetic_s(cell, resources) for cell in todo]
    times = [m if m is not None else a for m, a in zip(measured, by_size, strict=True)]
    known = [time for time in times if time is not None]
    hours = sum(known) / 3600 if len(known) == len(times) else None
    unit = "GPU-hours" if resources.gpus else "hours"
    n_measured = sum(m is not None for m in measured)
    return Cost(sum(sizes.values()), disk, hours, unit, _basis(n_measured, len(todo), resources))


CELL_OVERHEAD_S = 2.0
"""Assumed seconds of a cell outside its forward passes: metrics of a small model, and the commit."""


def expected_s(cell: Cell, resources: Resources) -> float:
    """Return the expected seconds of a cell, for comparison with other cells of the sweep.

    All cells of models of unknown size get the same value.
    """
    return CELL_OVERHEAD_S + (_arithmetic_s(cell, resources) or 0.0)


def _arithmetic_s(cell: Cell, resources: Resources) -> float | None:
    """Return the seconds of the forward passes, which take 2 FLOPs per parameter and token, at the assumed throughput.

    Return None if the number of parameters is not known.
    """
    n_params = cell.checkpoint.n_params
    return None if n_params is None else 2 * n_params * cell.recipe.forwarded_tokens / _rate(resources)


def _rate(resources: Resources) -> float:
    return FLOPS_PER_GPU if resources.gpus else FLOPS_PER_CORE * resources.threads


def _basis(n_measured: int, n_cells: int, resources: Resources) -> str:
    rate = f"2 x parameters x tokens at {_rate(resources) / 1e9:,.0f} GFLOP/s"
    if n_measured == n_cells:
        return "as measured in this lake"
    return rate if not n_measured else f"{n_measured} of {n_cells} cells as measured in this lake, else {rate}"
