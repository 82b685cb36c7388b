"""Follower of a training folder, which measures each checkpoint once it is complete and compares it with the past."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pipeline.catalog import local_histories
from pipeline.errors import FilesChangedError, ShapelakeError
from pipeline.lake import Lake
from pipeline.spec import Cell, Checkpoint, Corpus, Recipe, Resources
from pipeline.sweep.measure_one import commit_cell, measure_cells
from pipeline.watch.alert_rules import AlertRule, LayerSelection
from pipeline.watch.alerts import (
    REPORTED_METRICS,
    Alert,
    compare_with_history,
    describe_population,
    fire_alerts,
    nonfinite_flags,
)
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
    """Watched folder, measurement settings and alert rules."""

    folder: Path
    lake: Lake
    corpus: Corpus
    recipe: Recipe
    resources: Resources
    tokenizer: str | None = None
    base: Checkpoint | None = None
    """Model into which LoRA adapters in the folder are merged."""
    layers: LayerSelection = LayerSelection("blocks")
    rules: tuple[AlertRule, ...] = ()


class WatchEvent(NamedTuple):
    """Result for one cell of a checkpoint, or a problem of a checkpoint or of the folder."""

    line: str
    """Line to print; empty for a cell that an earlier watch reported."""
    alerts: tuple[Alert, ...] = ()
    """New alerts."""
    failed: bool = False
    """True if a checkpoint could not be measured, or the folder could not be read."""


class Follower:
    """Poller of a training folder. It records measurements and alerts in the lake, so a restart repeats neither.

    Args:
        retell: True to report once more the checkpoints that an earlier watch measured.
    """

    def __init__(self, config: WatchConfig, retell: bool = True) -> None:
        self._config = config
        self._old = set[str]() if retell else config.lake.committed_cell_ids()
        """Ids of the cells that were in the lake before this watch, and that are not reported again."""
        self._seen: dict[str, FolderSignature] = {}
        """Maps the name of each checkpoint's folder to its signature at the last poll."""
        self._settled: dict[str, FolderSignature] = {}
        """Maps the name of each folder that was measured or failed to its signature at that time."""
        self._reported: set[tuple[str, str]] = set()
        self._problem: str | None = None
        """Reason why the folder could not be read at the last poll."""

    def poll(self) -> Iterator[WatchEvent]:
        """Measure every complete checkpoint that was not yet processed in its present state, and yield its events.

        A checkpoint is complete if its files are whole and one of two things holds: they did not change since the last
        poll, or training has requested the measurement. An unreadable folder is reported once, and polled again later.
        """
        try:
            requests, folders = read_requests(self._config.folder), list_checkpoint_folders(self._config.folder)
        except OSError as error:
            yield from self._report_unreadable(f"{self._config.folder}: cannot be read: {error.strerror}")
            return
        self._problem = None
        before, self._seen = self._seen, {folder.path.name: folder.signature for folder in folders}
        self._drop_stale(requests)
        for folder in folders:
            name, signature = folder.path.name, folder.signature
            if self._settled.get(name) == signature or not (before.get(name) == signature or name in requests):
                continue
            if self._why_incomplete(folder.path) is None:
                yield from self._process(folder)

    def list_pending(self) -> list[str]:
        """Return the names of checkpoints that existed at the last poll and have neither been measured nor failed."""
        return [name for name in self._seen if name not in self._settled]

    def _report_unreadable(self, problem: str) -> Iterator[WatchEvent]:
        self._seen = {}
        if problem != self._problem:
            yield WatchEvent(problem, failed=True)
        self._problem = problem

    def _drop_stale(self, requests: dict[str, int]) -> None:
        """Remove from disk and from `requests` each request whose checkpoint is gone, is settled, or changed later."""
        for name, at in list(requests.items()):
            now = self._seen.get(name)
            if now is None or self._settled.get(name) == now or not is_request_current(at, now):
                del requests[name]
                drop_request(self._config.folder, name)

    def _process(self, folder: CheckpointFolder) -> Iterator[WatchEvent]:
        """Measure those cells of a checkpoint that the lake lacks, and yield the events of its cells.

        A checkpoint that is deleted or rewritten meanwhile yields nothing, and is left to the next poll.
        """
        path = folder.path
        try:
            checkpoint = local_histories.inspect_checkpoint(path, self._config.tokenizer, self._config.base)
            cells = self._cells(checkpoint)
            self._measure(cells)
        except Exception as error:  # any failure of one checkpoint: the next ones must still be measured
            if isinstance(error, FilesChangedError) or self._why_incomplete(path):
                return
            self._settle(folder)
            yield WatchEvent(f"{path.name}: {_format_error(error)}", failed=True)
            return
        self._settle(folder)
        yield from (self._make_event(cell) for cell in cells if (path.name, cell.id) not in self._reported)

    def _why_incomplete(self, path: Path) -> str | None:
        has_base = self._config.base is not None
        return why_incomplete(path, self._config.tokenizer is None and not has_base, has_base)

    def _settle(self, folder: CheckpointFolder) -> None:
        self._settled[folder.path.name] = folder.signature
        drop_request(self._config.folder, folder.path.name)

    def _cells(self, checkpoint: Checkpoint) -> list[Cell]:
        corpus, recipe = self._config.corpus, self._config.recipe
        return [
            Cell(checkpoint=checkpoint, kind=kind, corpus=corpus, recipe=recipe)  # type: ignore[arg-type]
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
        line = "" if cell.id in self._old else self._describe(cell)
        return WatchEvent(line, tuple(fire_alerts(self._config.lake, cell, self._config.rules)))

    def _describe(self, cell: Cell) -> str:
        """Return the line of one cell: its metrics, compared with the past of its run and with runs of its size."""
        lake, layers = self._config.lake, self._config.layers
        shown = compare_with_history(lake, cell, [(metric, layers) for metric in REPORTED_METRICS])
        flags = nonfinite_flags(lake, cell)
        ending = [f"NaN or infinity ({', '.join(flags)})"] if flags else []
        ending += describe_population(lake, cell, layers, self._config.rules)
        return "  ".join((cell.checkpoint.revision, *map(str, shown), *ending))


def _format_error(error: Exception) -> str:
    """Format an error on one line; the class is put before the text of an unexpected error."""
    text = " ".join(str(error).split())
    return text if isinstance(error, ShapelakeError | OSError) else f"{type(error).__name__}: {text}"
