"""Wanted cells minus what the lake has: the only thing a rerun needs to know."""

import json
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from pipeline.catalog.audit import HistoryFinding, assign_states, audit_history
from pipeline.catalog.discovery import discover_histories
from pipeline.catalog.revisions import History
from pipeline.corpora import resolve_corpus
from pipeline.errors import UsageError
from pipeline.lake import Lake
from pipeline.lake.records import ResolvedLabel
from pipeline.recipe import BUILT_IN_RECIPES
from pipeline.sources import matches_model
from pipeline.spec import Cell, Checkpoint, Sweep
from pipeline.sweep.audit_records import last_seen_revisions, serious_findings
from pipeline.sweep.cost import Cost, estimate_cost
from pipeline.sweep.prior_results import load_prior_results, reason_to_run
from pipeline.sweep.step_selection import select_checkpoints, select_sources


@dataclass(frozen=True)
class Plan:
    """What a sweep wants and where each cell stands."""

    sweep: Sweep
    checkpoints: tuple[Checkpoint, ...]
    """Every wanted label; two with equal content share their cells."""
    cells: tuple[Cell, ...]
    """Every wanted cell once, in training order."""
    committed: frozenset[str]
    quarantined: frozenset[str]
    to_release: frozenset[str]
    """Wanted cells whose tombstone goes away when the run starts, because the user asks for another try."""
    reason_by_cell: Mapping[str, str]
    """Why each cell to run is not there yet, by cell id."""
    attempts: Mapping[str, Counter[str]]
    histories: tuple[History, ...]
    """With the state of every revision against the lake."""
    findings: tuple[tuple[str, HistoryFinding], ...]
    """What is wrong with the histories, by model."""
    cost: Cost

    @cached_property
    def todo(self) -> tuple[Cell, ...]:
        """Wanted cells that are neither in the lake nor quarantined."""
        return tuple(c for c in self.cells if c.id not in self.committed and c.id not in self.quarantined)

    @property
    def committed_checkpoints(self) -> tuple[Checkpoint, ...]:
        """Those of which a wanted cell is committed: their labels belong in the lake."""
        there = {cell.checkpoint.content for cell in self.cells if cell.id in self.committed}
        return tuple(c for c in self.checkpoints if c.content in there)

    @property
    def quarantined_cells(self) -> tuple[Cell, ...]:
        """Wanted cells that stand quarantined."""
        return tuple(c for c in self.cells if c.id in self.quarantined)

    def count_reasons(self) -> dict[str, int]:
        """Cells to run by why they are not there yet."""
        return dict(Counter(self.reason_by_cell[cell.id] for cell in self.todo))

    @property
    def unparsed_names(self) -> tuple[str, ...]:
        return tuple(f"{h.model}/{name}" for h in self.histories for name in h.unparsed)

    @property
    def other_folders(self) -> tuple[str, ...]:
        return tuple(f"{h.model}/{name}" for h in self.histories for name in h.ignored_names)

    def to_json(self) -> dict[str, Any]:
        """For `plan --json`."""
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
            "cost": self.cost._asdict(),
            "unparsed": list(self.unparsed_names),
            "other_folders": list(self.other_folders),
        }


def make_plan(sweep: Sweep, lake: Lake, retry_quarantined: bool = False) -> Plan:
    """Discover, select, and compare with the lake by listing names; writes nothing, loads no model."""
    lake.check_recipe(sweep.recipe)
    labels = lake.labels()
    histories = _histories(sweep, labels)
    checkpoints = select_checkpoints((h.checkpoints for h in histories), sweep.steps)
    corpora = tuple(resolve_corpus(corpus) for corpus in sweep.corpora)
    sweep = sweep.model_copy(update={"corpora": corpora})
    wanted = [
        Cell(checkpoint=checkpoint, kind=kind, corpus=corpus, recipe=sweep.recipe)
        for checkpoint in checkpoints
        for kind in checkpoint.kinds or ("decoder",)  # what cannot be read fails when it is loaded, and says why
        for corpus in corpora
    ]
    _refuse_equal_labels(checkpoints)
    cells = tuple({cell.id: cell for cell in reversed(wanted)}.values())[::-1]
    files, attempts = lake.cell_files(), lake.failure_counts()
    committed = set(files)
    quarantined = lake.quarantined_cell_ids()
    released = _failed_before(lake) & {cell.id for cell in cells} if retry_quarantined else set()
    todo = [cell for cell in cells if cell.id not in committed | (quarantined - released)]
    past = load_prior_results(lake, files, todo, labels)
    contents = _contents(labels)
    return Plan(
        sweep=sweep,
        checkpoints=checkpoints,
        cells=cells,
        committed=frozenset(committed),
        quarantined=frozenset(quarantined - released),
        to_release=frozenset(released),
        reason_by_cell={cell.id: reason_to_run(cell, past, contents, cell.id in attempts) for cell in todo},
        attempts=attempts,
        histories=histories,
        findings=tuple((h.model, finding) for h in histories for finding in serious_findings(audit_history(h))),
        cost=estimate_cost(todo, past, sweep.resources),
    )


def _histories(sweep: Sweep, labels: list[ResolvedLabel]) -> tuple[History, ...]:
    """Every history whose model is wanted, with the state of each revision against what the lake knows."""
    found = _once(h for source in select_sources(sweep) for h in discover_histories(source, sweep.models))
    wanted = [h for h in found if matches_model(h.model, sweep.models)]
    if not wanted:
        names = ", ".join(h.model for h in found)
        raise UsageError(f"--models {sweep.models}", f"none of {names}", "Give a glob that matches one")
    return tuple(assign_states(h, last_seen_revisions(labels, h.model)) for h in wanted)


def _once(histories: Iterable[History]) -> list[History]:
    """A repo that two sources name counts once."""
    by_model = {(h.model, h.family_name if h.family_name != "local" else id(h)): h for h in histories}
    return list(by_model.values())


def _contents(labels: list[ResolvedLabel]) -> dict[str, dict[str, str]]:
    """Weights digest by content, of all that each label was seen to have."""
    contents: dict[str, dict[str, str]] = {}
    for named in labels:
        contents.setdefault(named.label.name, {})[named.label.content] = named.label.weights_digest
    return contents


def limit_cells(plan: Plan, limit: int | None) -> Plan:
    """The plan with at most `limit` cells to run: the smoke test of a sweep."""
    if limit is None:
        return plan
    left_out = {cell.id for cell in plan.todo[limit:]}
    return replace(plan, cells=tuple(cell for cell in plan.cells if cell.id not in left_out))


def _failed_before(lake: Lake) -> set[str]:
    """Cells quarantined for a failure; what a person has hidden stays hidden."""
    return {stone.cell_id for stone in lake.tombstones() if stone.failure is not None}


def _refuse_equal_labels(checkpoints: tuple[Checkpoint, ...]) -> None:
    """One name for two different checkpoints would make each look like a newer upload of the other."""
    first: dict[str, Checkpoint] = {}
    for checkpoint in checkpoints:
        other = first.setdefault(checkpoint.label, checkpoint)
        if other.content != checkpoint.content:
            raise UsageError(
                f"checkpoint {checkpoint.label}",
                f"two of that name: {other.path} and {checkpoint.path}",
                "Give one history a name of its own: {local: FOLDER, model: NAME}",
            )


def reproduction_command(cell: Cell) -> str:
    """The shell line that measures this cell alone and shows what goes wrong."""
    checkpoint, recipe = cell.checkpoint, cell.recipe
    corpus = cell.corpus.kind + (f":{cell.corpus.path}" if cell.corpus.path else "")
    fields = json.dumps(recipe.model_dump(mode="json", exclude_defaults=True))
    remote, tokenizer = checkpoint.remote, checkpoint.tokenizer_remote
    place = f"{remote.repo}@{checkpoint.revision}" if remote else checkpoint.path
    words = ["shapelake", "measure", place, "--corpus", corpus]
    words += ["--recipe", recipe.label if BUILT_IN_RECIPES.get(recipe.label) == recipe else fields]
    if tokenizer or checkpoint.tokenizer_path != checkpoint.path:
        words += ["--tokenizer", tokenizer.repo if tokenizer else checkpoint.tokenizer_path]
    if len(checkpoint.kinds) > 1:
        words += ["--kind", cell.kind]
    return shlex.join(words)
