"""Plan of a sweep: its wanted cells, compared with what the lake already has."""

import gc
import json
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

from pipeline.catalog.audit import HistoryFinding, assign_states, audit_history
from pipeline.catalog.discovery import OpenedSource, open_sources, read_histories
from pipeline.catalog.revisions import History
from pipeline.corpora import resolve_corpus
from pipeline.errors import UsageError
from pipeline.lake import Lake
from pipeline.lake.records import ResolvedLabel
from pipeline.recipe import BUILT_IN_RECIPES
from pipeline.sources import matches_model
from pipeline.spec import Cell, Checkpoint, Sweep
from pipeline.sweep.audit_records import last_seen_revisions, serious_findings
from pipeline.sweep.cost import Cost, RecordCost, estimate_cost, estimate_records, expected_s
from pipeline.sweep.foreseen import ForeseenFailure, foresee_failures
from pipeline.sweep.prior_results import NO_RECORDS, load_prior_results, reason_to_run
from pipeline.sweep.step_selection import select_checkpoints, select_sources
from pipeline.sweep.task import finished_cell_ids


class SweepPart(NamedTuple):
    """Some or all models of a sweep."""

    sources: Sequence[OpenedSource]
    is_whole: bool = True
    unlisted_models: int = 0
    """Number of models of the sweep that are in none of the parts so far."""


@dataclass(frozen=True)
class Plan:
    """Wanted checkpoints and cells of a sweep, with the state of each cell in the lake."""

    sweep: Sweep
    checkpoints: tuple[Checkpoint, ...]
    """Wanted checkpoints, one per label; labels with equal content share their cells."""
    cells: tuple[Cell, ...]
    """Wanted cells without duplicates, in training order."""
    committed: frozenset[str]
    """Ids of the cells in the lake; if the sweep wants similarity records, only of those cells that have them."""
    quarantined: frozenset[str]
    """Ids of the cells with a tombstone, without those in `to_release`."""
    to_release: frozenset[str]
    """Ids of the wanted cells whose tombstone the run deletes at its start, because of `--retry-quarantined`."""
    reason_by_cell: Mapping[str, str]
    """Maps the id of each cell to run to the reason why it is not in the lake yet, a key of REASON_CODES."""
    attempts: Mapping[str, Counter[str]]
    """Maps a cell id to the number of recorded failures of each class."""
    histories: tuple[History, ...]
    """Histories of the wanted models; each revision has its state relative to the lake."""
    audits: tuple[tuple[HistoryFinding, ...], ...]
    """Audit findings of each history, in the order of `histories`."""
    cost: Cost
    """Estimate for all wanted cells that the lake lacks, including those left out by a limit."""
    records: RecordCost = field(default_factory=RecordCost)
    """Number and size of the similarity records that the lake lacks; zero unless the sweep wants records."""
    left_out_by_limit: int = 0
    """Number of cells to run that `limit_cells` has removed from the plan."""
    unlisted_models: int = 0
    """Number of models of the sweep that are in none of the parts planned so far."""

    @cached_property
    def todo(self) -> tuple[Cell, ...]:
        """Wanted cells that are neither in the lake nor quarantined."""
        return tuple(c for c in self.cells if c.id not in self.committed and c.id not in self.quarantined)

    @property
    def expected_s(self) -> dict[str, float]:
        """Expected seconds of each cell to run, by cell id."""
        return {cell.id: expected_s(cell, self.sweep.resources) for cell in self.todo}

    @property
    def committed_checkpoints(self) -> tuple[Checkpoint, ...]:
        """Checkpoints with a committed wanted cell; the run records their labels in the lake."""
        contents = {cell.checkpoint.content for cell in self.cells if cell.id in self.committed}
        return tuple(c for c in self.checkpoints if c.content in contents)

    @property
    def quarantined_cells(self) -> tuple[Cell, ...]:
        """Wanted cells that are quarantined."""
        return tuple(c for c in self.cells if c.id in self.quarantined)

    def count_reasons(self) -> dict[str, int]:
        """Return the number of cells to run for each reason that occurs."""
        return dict(Counter(self.reason_by_cell[cell.id] for cell in self.todo))

    @property
    def findings(self) -> tuple[tuple[str, HistoryFinding], ...]:
        """Errors and warnings among the audit findings, as (model, finding)."""
        audited = zip(self.histories, self.audits, strict=True)
        return tuple((h.model, finding) for h, findings in audited for finding in serious_findings(findings))

    @cached_property
    def foreseen(self) -> tuple[ForeseenFailure, ...]:
        """Failures that are predicted for cells to run, one entry per reason."""
        return foresee_failures(self.todo)

    @property
    def unparsed_names(self) -> tuple[str, ...]:
        return tuple(f"{h.model}/{name}" for h in self.histories for name in h.unparsed)

    @property
    def other_folders(self) -> tuple[str, ...]:
        return tuple(f"{h.model}/{name}" for h in self.histories for name in h.ignored_names)

    def to_json(self) -> dict[str, Any]:
        """Return the plan in the JSON form that `plan --json` prints and a run records."""
        return {
            "sweep": self.sweep.name,
            "recipe": self.sweep.recipe.label,
            "models": {h.model: [c.revision for c in self.checkpoints if c.model == h.model] for h in self.histories},
            "corpora": [{"id": c.id, "sha256": c.sha256} for c in self.sweep.corpora],
            "wanted": len(self.cells),
            "done": len(self.cells) - len(self.todo) - len(self.quarantined_cells),
            "quarantined": [cell.name for cell in self.quarantined_cells],
            "to_run": [cell.name for cell in self.todo],
            "reasons": self.count_reasons(),
            "states": {h.model: dict(Counter(r.state for r in h.revisions)) for h in self.histories},
            "findings": [{"model": model, **finding._asdict()} for model, finding in self.findings],
            "foreseen": [failure._asdict() for failure in self.foreseen],
            "cost": self.cost._asdict(),
            "similarity": self.records._asdict() if self.sweep.similarity else None,
            "unparsed": list(self.unparsed_names),
            "other_folders": list(self.other_folders),
        }


def make_plan(sweep: Sweep, lake: Lake, retry_quarantined: bool = False, part: SweepPart | None = None) -> Plan:
    """Discover and select checkpoints and compare them with the lake. Writes nothing and loads no model.

    The lake's state comes from listing file names; cell files are read only for reasons and cost.

    Args:
        retry_quarantined: include cells that a failure quarantined.
        part: plan only these models of the sweep; None = all.

    Raises:
        UsageError: `--models` or `--steps` matches nothing (in a part, this is allowed), or one label names two
            checkpoints.
        RecipeDriftError: the lake has a different recipe under this name and version.
    """
    with _paused_garbage_collection():
        part = part or SweepPart(open_sources(select_sources(sweep), sweep.models))
        return _make_plan(sweep, lake, retry_quarantined, part)


def _make_plan(sweep: Sweep, lake: Lake, retry_quarantined: bool, part: SweepPart) -> Plan:
    lake.check_recipe(sweep.recipe)
    labels = lake.labels()
    histories = _histories(sweep, labels, part)
    checkpoints = select_checkpoints((h.checkpoints for h in histories), sweep.steps, part.is_whole)
    _require_unique_labels(checkpoints)
    sweep = sweep.model_copy(update={"corpora": tuple(resolve_corpus(corpus) for corpus in sweep.corpora)})
    cells = _wanted_cells(sweep, checkpoints)
    files, attempts = lake.cell_files(), lake.failure_counts()
    committed = finished_cell_ids(lake, sweep.similarity) if sweep.similarity else set(files)
    quarantined = lake.quarantined_cell_ids()
    released = _failed_before(lake) & {cell.id for cell in cells} if retry_quarantined else set()
    settled = committed | (quarantined - released)
    todo = [cell for cell in cells if cell.id not in settled]
    past = load_prior_results(lake, files, todo, labels)
    contents = _contents(labels)
    return Plan(
        sweep=sweep,
        checkpoints=checkpoints,
        cells=cells,
        committed=frozenset(committed),
        quarantined=frozenset(quarantined - released),
        to_release=frozenset(released),
        reason_by_cell={
            cell.id: NO_RECORDS if cell.id in files else reason_to_run(cell, past, contents, cell.id in attempts)
            for cell in todo
        },
        attempts=attempts,
        histories=histories,
        audits=tuple(audit_history(history) for history in histories),
        cost=estimate_cost(todo, past, sweep.resources),
        records=estimate_records(todo, sweep.similarity),
        unlisted_models=part.unlisted_models,
    )


@contextmanager
def _paused_garbage_collection() -> Iterator[None]:
    """Pause Python's cyclic garbage collector: a plan creates millions of live objects, and scanning them repeatedly
    would take a fifth of its time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _wanted_cells(sweep: Sweep, checkpoints: tuple[Checkpoint, ...]) -> tuple[Cell, ...]:
    """Return one cell per checkpoint, layer stack and corpus; of cells with equal ids, only the first is kept."""
    wanted = [  # not validated again: the parts are valid, and validation would take a tenth of a warm plan
        Cell.model_construct(checkpoint=checkpoint, kind=kind, corpus=corpus, recipe=sweep.recipe)
        for checkpoint in checkpoints
        for kind in checkpoint.kinds or ("decoder",)  # an unreadable config fails at load, with its reason
        for corpus in sweep.corpora
    ]
    return tuple({cell.id: cell for cell in reversed(wanted)}.values())[::-1]


def _histories(sweep: Sweep, labels: list[ResolvedLabel], part: SweepPart) -> tuple[History, ...]:
    """Return the histories of the wanted models, with the state of each revision compared with the lake."""
    found = _without_duplicates(read_histories(part.sources))
    wanted = [h for h in found if matches_model(h.model, sweep.models)]
    if part.is_whole and not wanted:
        names = ", ".join(h.model for h in found)
        raise UsageError(
            f"--models {sweep.models}", f"matches none of {names}", "Write --models with one of these names"
        )
    return tuple(assign_states(h, last_seen_revisions(labels, h.model)) for h in wanted)


def _without_duplicates(histories: Iterable[History]) -> list[History]:
    """Keep one history per Hub repo if several sources name it; all local folders are kept."""
    by_model = {(h.model, h.family_name if h.family_name != "local" else id(h)): h for h in histories}
    return list(by_model.values())


def _contents(labels: list[ResolvedLabel]) -> dict[str, dict[str, str]]:
    """Map each label name to {content: weights digest} of every content that the label has had."""
    contents: dict[str, dict[str, str]] = {}
    for resolved in labels:
        contents.setdefault(resolved.label.name, {})[resolved.label.content] = resolved.label.weights_digest
    return contents


def limit_cells(plan: Plan, limit: int | None) -> Plan:
    """Return the plan with at most `limit` cells to run, for a smoke test of a sweep."""
    if limit is None:
        return plan
    left_out = {cell.id for cell in plan.todo[limit:]}
    cells = tuple(cell for cell in plan.cells if cell.id not in left_out)
    return replace(plan, cells=cells, left_out_by_limit=len(left_out))


def _failed_before(lake: Lake) -> set[str]:
    """Return the ids of the cells that were quarantined because of a failure, not hidden by a person."""
    return {tombstone.cell_id for tombstone in lake.tombstones() if tombstone.failure is not None}


def _require_unique_labels(checkpoints: tuple[Checkpoint, ...]) -> None:
    """Refuse two checkpoints under one label: each would look like a re-upload of the other."""
    first: dict[str, Checkpoint] = {}
    for checkpoint in checkpoints:
        other = first.setdefault(checkpoint.label, checkpoint)
        if other.content != checkpoint.content:
            found = f"two checkpoints have this label: {other.path} and {checkpoint.path}"
            do = "Name the model of one history: {local: FOLDER, model: NAME}"
            raise UsageError(f"checkpoint {checkpoint.label}", found, do)


def reproduction_command(cell: Cell) -> str:
    """Return the shell command that measures only this cell, to reproduce its failure."""
    checkpoint, recipe = cell.checkpoint, cell.recipe
    fields = json.dumps(recipe.model_dump(mode="json", exclude_defaults=True))
    remote, tokenizer, base = checkpoint.remote, checkpoint.tokenizer_remote, checkpoint.base_remote
    name = f"{remote.repo}@{checkpoint.revision}" if remote else checkpoint.path
    words = ["shapelake", "measure", name, "--corpus", cell.corpus.source]
    words += ["--recipe", recipe.label if BUILT_IN_RECIPES.get(recipe.label) == recipe else fields]
    if checkpoint.is_adapter:
        words += ["--base", f"{base.repo}@{base.commit}" if base else checkpoint.base_path]
    is_of_base = tokenizer and base and (tokenizer.repo, tokenizer.commit) == (base.repo, base.commit)
    if not is_of_base and (tokenizer or checkpoint.tokenizer_path not in (checkpoint.path, checkpoint.base_path)):
        words += ["--tokenizer", tokenizer.repo if tokenizer else checkpoint.tokenizer_path]
    if len(checkpoint.kinds) > 1:
        words += ["--kind", cell.kind]
    return shlex.join(words)
