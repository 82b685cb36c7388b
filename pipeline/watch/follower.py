"""Following a folder: each checkpoint that becomes complete is measured once, told, and judged."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pipeline.catalog import local_histories
from pipeline.errors import FilesChangedError, ShapelakeError
from pipeline.lake import Lake
from pipeline.spec import Cell, Checkpoint, Corpus, Recipe, Resources
from pipeline.sweep.measure_one import commit_cell, measure_cells
from pipeline.watch.alert_rules import AlertRule, LayerSelection
from pipeline.watch.alerts import REPORTED_METRICS, Alert, compare_with_history, fire_alerts, nonfinite_flags
from pipeline.watch.checkpoint_folder import (
    CheckpointFolder,
    FolderSignature,
    drop_request,
    is_request_current,
    list_checkpoint_folders,
    read_requests,
    why_incomplete,
)


class WatchConfig(NamedTuple):
    """What is followed, and how its checkpoints are measured and judged."""

    folder: Path
    lake: Lake
    corpus: Corpus
    recipe: Recipe
    resources: Resources
    tokenizer: str | None = None
    layers: LayerSelection = LayerSelection("blocks")
    rules: tuple[AlertRule, ...] = ()


class WatchEvent(NamedTuple):
    """One checkpoint: the line to print, the alerts that are new, and whether it could be measured."""

    line: str
    alerts: tuple[Alert, ...] = ()
    failed: bool = False


class Follower:
    """Knows what it has seen; a new one learns from the lake what has been measured and what has alarmed."""

    def __init__(self, followed: WatchConfig) -> None:
        self._config = followed
        self._seen: dict[str, FolderSignature] = {}
        """At the last look."""
        self._settled: dict[str, FolderSignature] = {}
        """When it was measured, or could not be."""
        self._reported: set[tuple[str, str]] = set()
        self._problem: str | None = None
        """Why the folder could not be read at the last look."""

    def poll(self) -> Iterator[WatchEvent]:
        """Take every checkpoint that is complete: unchanged since the last look, or requested, and whole.

        A folder that cannot be read is told once, and may come back.
        """
        try:
            asked, there = read_requests(self._config.folder), list_checkpoint_folders(self._config.folder)
        except OSError as error:
            yield from self._report_unreadable(f"{self._config.folder}: cannot be read: {error.strerror}")
            return
        self._problem = None
        before, self._seen = self._seen, {one.path.name: one.signature for one in there}
        self._drop_stale(asked)
        for one in there:
            name = one.path.name
            if self._settled.get(name) == one.signature or not (before.get(name) == one.signature or name in asked):
                continue
            if why_incomplete(one.path, own_tokenizer=self._config.tokenizer is None) is None:
                yield from self._process(one)

    def list_pending(self) -> list[str]:
        """Names of the checkpoints that were there at the last look and were neither measured nor given up."""
        return [name for name in self._seen if name not in self._settled]

    def _report_unreadable(self, problem: str) -> Iterator[WatchEvent]:
        self._seen = {}
        if problem != self._problem:
            yield WatchEvent(problem, failed=True)
        self._problem = problem

    def _drop_stale(self, asked: dict[str, int]) -> None:
        """Requests for what is gone, settled, or was written after them; they leave `asked` too."""
        for name, at in list(asked.items()):
            now = self._seen.get(name)
            if now is None or self._settled.get(name) == now or not is_request_current(at, now):
                del asked[name]
                drop_request(self._config.folder, name)

    def _process(self, one: CheckpointFolder) -> Iterator[WatchEvent]:
        """Measure what the lake does not have. Rotated away or written anew meanwhile, it is left for the next look."""
        try:
            checkpoint = local_histories.inspect_checkpoint(one.path, self._config.tokenizer)
            cells = self._cells(checkpoint)
            self._measure(cells)
        except Exception as error:  # whatever a checkpoint does to torch, the next one is still to be watched
            if isinstance(error, FilesChangedError) or why_incomplete(one.path, self._config.tokenizer is None):
                return
            self._settle(one)
            yield WatchEvent(f"{one.path.name}: {_format_error(error)}", failed=True)
            return
        self._settle(one)
        yield from (self._make_event(cell) for cell in cells if (one.path.name, cell.id) not in self._reported)

    def _settle(self, one: CheckpointFolder) -> None:
        self._settled[one.path.name] = one.signature
        drop_request(self._config.folder, one.path.name)

    def _cells(self, checkpoint: Checkpoint) -> list[Cell]:
        of = self._config
        return [
            Cell(checkpoint=checkpoint, kind=kind, corpus=of.corpus, recipe=of.recipe)  # type: ignore[arg-type]
            for kind in checkpoint.kinds or ("decoder",)
        ]

    def _measure(self, cells: list[Cell]) -> None:
        committed = self._config.lake.committed_cell_ids()
        self._config.lake.record_labels([cells[0].checkpoint])
        if missing := [cell for cell in cells if cell.id not in committed]:
            for cell, rows in measure_cells(missing, self._config.resources):
                commit_cell(self._config.lake, cell, rows)

    def _make_event(self, cell: Cell) -> WatchEvent:
        self._reported.add((cell.checkpoint.revision, cell.id))
        shown = compare_with_history(
            self._config.lake, cell, [(metric, self._config.layers) for metric in REPORTED_METRICS]
        )
        flags = nonfinite_flags(self._config.lake, cell)
        ending = [f"NaN or infinity ({', '.join(flags)})"] if flags else []
        line = "  ".join((cell.checkpoint.revision, *map(str, shown), *ending))
        return WatchEvent(line, tuple(fire_alerts(self._config.lake, cell, self._config.rules)))


def _format_error(error: Exception) -> str:
    """In one line, with its class where it is none of ours."""
    text = " ".join(str(error).split())
    return text if isinstance(error, ShapelakeError | OSError) else f"{type(error).__name__}: {text}"
