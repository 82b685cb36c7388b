"""Terminal output of plans, run reports and the status of a lake."""

import shlex
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pipeline.render.tables import format_bytes, print_records
from pipeline.terminal import print_line

if TYPE_CHECKING:  # these imports take 0.5 s, which a query does not need
    from pipeline.catalog.revisions import History
    from pipeline.spec import Checkpoint
    from pipeline.sweep.cost import Cost, RecordCost
    from pipeline.sweep.plan import Plan
    from pipeline.sweep.run_report import RunReport

MAX_LISTED = 10


def print_plan(plan: "Plan", lake: str) -> None:
    """Print what exists, what is wanted, what will run and why."""
    corpora = ", ".join(f"{c.id} (sha256 {c.sha256[:8]})" if c.sha256 else c.id for c in plan.sweep.corpora)
    todo, quarantined = plan.todo, plan.quarantined_cells
    done = len(plan.cells) - len(todo) - len(quarantined)
    print_line(f"sweep     {plan.sweep.name}   recipe {plan.sweep.recipe.label}   lake {lake}")
    for history in {h.model: h for h in plan.histories}.values():
        print_line(f"history   {history.model}: {_describe_wanted(plan, history)}{_states(history)}")
    print_line(f"corpora   {corpora}")
    counts = f"{done} done   {len(quarantined)} quarantined   {len(todo)} to run"
    print_line(f"cells     {len(plan.cells)} wanted   {counts}")
    if n := plan.unlisted_models:
        print_line(f"listing   {n} more {'models are' if n > 1 else 'model is'} being listed; this part runs meanwhile")
    if todo:
        print_line("reason    " + " | ".join(f"{reason} {count}" for reason, count in plan.count_reasons().items()))
        print_line(f"cost      {_cost(plan.cost)}{_selection(plan)}")
    if plan.records.cells:
        print_line(f"records   {_records(plan.records)}{_limit(plan)}")
    if plan.unparsed_names:
        print_line(f"unparsed  {_listed(plan.unparsed_names)} (no step in the name; not measured)")
    if plan.other_folders:
        print_line(f"ignored   {_listed(plan.other_folders)} (not a checkpoint)")
    for model, finding in plan.findings[:MAX_LISTED]:
        print_line(f"warning   {model}: {finding.says}")
    if more := plan.findings[MAX_LISTED:]:
        models = " ".join(sorted({model for model, _ in more}))
        print_line(f"warning   and {len(more)} more: shapelake audit {models}")
    for failure in plan.foreseen:
        print_line(f"will fail {_listed(failure.labels)}: {failure.says}")
    for cell in quarantined[:MAX_LISTED]:
        print_line(f"skipped   {cell.name} is quarantined: {_failures_command(lake)}")


def print_run_report(report: "RunReport", plan: "Plan", lake: str) -> None:
    """Print how a run ended: the cells in the lake, and the cause and reproduction command of each failure."""
    from pipeline.sweep.plan import reproduction_command

    for cell, outcome in report.failures.values():
        print_line()
        _print_lines(f"FAILED    {cell.name}: {outcome.error_class}", outcome.message)
        print_line(f"          reproduce: {reproduction_command(cell)}")
    for group in report.left_out:
        do = "run it on a cluster with larger nodes, or exclude it with --models"
        print_line()
        _print_lines(f"LEFT OUT  {group}", do)
    if report.stop_reason:
        print_line()
        first, _, rest = report.stop_reason.partition("\n")
        _print_lines(f"STOPPED   {first}", rest)
    total = len(plan.cells) - len(plan.todo) + report.n_done - len(report.quarantined_cells)
    parts = [f"{total} of {len(plan.cells)} wanted cells are in the lake", f"{report.committed} new"]
    twice = f", of which {report.measured_twice} were measured here too" if report.measured_twice else ""
    parts += [f"{report.by_others} by other runs{twice}"] if report.by_others else []
    parts += [f"{len(report.failures)} failed"] if report.failures else []
    parts += [f"{len(report.quarantined_cells)} quarantined"] if report.quarantined_cells else []
    parts += [f"{sum(group.cells for group in report.left_out)} left out"] if report.left_out else []
    parts += [f"{report.n_unfinished} unfinished (run again)"] if report.n_unfinished else []
    models = "models" if report.unlisted_models > 1 else "model"
    parts += [f"{report.unlisted_models} {models} not listed (run again)"] if report.unlisted_models else []
    parts += [f"{plan.left_out_by_limit} left out by --limit"] if plan.left_out_by_limit else []
    print_line()
    print_line(f"lake      {lake}: " + ", ".join(parts))


def print_status(state: dict[str, Any], failed: bool) -> None:
    """Print the models, the last runs and the number of failures; with `failed`, print each failure instead."""
    if failed:
        for failure in state["failures"]:
            _print_failure(failure)
        if not state["failures"]:
            print_line("no failures")
        return
    if state["models"]:
        recorded = any(model["similarity"] for model in state["models"])
        columns = [name for name in state["models"][0] if recorded or name != "similarity"]
        print_records([{name: model[name] for name in columns} for model in state["models"]])
    else:
        print_line("no committed cells yet")
    _print_quarantined(state)
    for run in state["runs"][-3:]:
        ended = "ended" if run["ended"] else "running or interrupted"
        counts = f"{run['committed']}/{run['to_run']} cells, {run['failed']} failed"
        counts += f", {sum(group['cells'] for group in run['left_out'])} left out" if run.get("left_out") else ""
        counts += f", slots busy {run['busy']:.0%}" if run.get("busy") else ""
        counts += f", slots idle {run['gpu_wait_s']:.0f} s during downloads" if run.get("gpu_wait_s", 0.0) >= 1 else ""
        counts += f", {ended}, last heartbeat {run['when']}"
        print_line(f"run {run['run_id']} ({run['sweep']}): {counts}")
    if state["failures"]:
        print_line(f"{len(state['failures'])} failures: {_failures_command(state['lake'])}")


def _print_quarantined(state: dict[str, Any]) -> None:
    """Print the quarantined cells, each with the first line of the reason, and the command that releases a cell."""
    entries = state["quarantined"]
    for entry in entries[:MAX_LISTED]:
        cell, (reason, *_) = entry["cell_id"], entry["reason"].splitlines() or [""]
        label = entry["label"] or "unreadable cell"
        print_line(f"quarantined {cell[:8]} ({label}) by {entry['by']} at {entry['when']}: {reason}")
    if len(entries) > MAX_LISTED:
        print_line(f"quarantined and {len(entries) - MAX_LISTED} more: shapelake status --json")
    if entries:
        command = shlex.join(["shapelake", "quarantine", "CELL", "--release", "--lake", state["lake"]])
        print_line(f"to release one: {command}")


def _describe_wanted(plan: "Plan", history: "History") -> str:
    """Describe the wanted checkpoints of a history, or why there are none."""
    chosen = [c for c in plan.checkpoints if c.model == history.model]
    if chosen:
        return f"{len(chosen)} checkpoints, {_span(chosen)}"
    if known := history.checkpoints:
        return f"0 of {len(known)} checkpoints match --steps {plan.sweep.steps}, {_span(known)}"
    reasons = dict.fromkeys(revision.state_reason for revision in history.revisions if revision.state_reason)
    no_reason = "no such repo" if history.missing_on_hub else "no revisions"
    return f"nothing to measure: {_listed(tuple(reasons)) or no_reason}"


def _states(history: "History") -> str:
    """Return the number of revisions per state; empty for a local history, whose states the other lines imply."""
    if history.family_name == "local" or not history.revisions:
        return ""
    counts = Counter(revision.state for revision in history.revisions)
    rule = ", names read by the general rule" if history.family_name == "generic" else ""
    return f" ({' | '.join(f'{state} {n}' for state, n in counts.items())}{rule})"


def _cost(cost: "Cost") -> str:
    hours = "time unknown" if cost.hours is None else f"{_duration(cost.hours, cost.unit)}, {cost.basis}"
    if not cost.download_bytes:
        return f"nothing to download; {hours}"
    return f"{format_bytes(cost.download_bytes)} to download, at most {format_bytes(cost.disk_bytes)} on disk; {hours}"


def _records(records: "RecordCost") -> str:
    each = f"{format_bytes(records.bytes_per_layer)} per layer"
    unknown = "total unknown, as a config.json states no number of blocks"
    total = unknown if records.bytes is None else format_bytes(records.bytes)
    return f"similarity records of {records.cells} cells to make: {each}, {total}"


def _duration(hours: float, unit: str) -> str:
    """Format hours; less than one hour is stated in minutes or seconds: 0.0012 GPU-hours are `4.3 GPU-seconds`."""
    per_hour, name = next(
        ((n, name) for n, name in ((1, "hours"), (60, "minutes")) if hours * n >= 1), (3600, "seconds")
    )
    return f"{hours * per_hour:.2g} {unit.replace('hours', name)}" if hours < 100 else f"{hours:,.0f} {unit}"


def _selection(plan: "Plan") -> str:
    """Describe the options that make the run smaller than the sweep.

    The printed cost is that of the steps which --steps chooses, but it is not reduced by --limit.
    """
    steps = "" if plan.sweep.steps == "all" else f"; with --steps {plan.sweep.steps}"
    return f"{steps}{_limit(plan)}"


def _limit(plan: "Plan") -> str:
    """State that a number is that of all cells, if --limit runs only some of them."""
    n_all = len(plan.todo) + plan.left_out_by_limit
    return f"; for all {n_all} cells, --limit runs {len(plan.todo)} of them" if plan.left_out_by_limit else ""


def _failures_command(lake: str) -> str:
    return shlex.join(["shapelake", "status", "--failed", "--lake", lake])


def _print_failure(failure: dict[str, Any]) -> None:
    cell = f"{failure['label']} {failure['corpus']} {failure['recipe']}"
    head = f"{cell}: {failure['class']}, {failure['attempts']} attempts, last {failure['when']}"
    _print_lines(head, failure["message"])
    print_line(f"          reproduce: {failure['command']}")


def _span(history: Sequence["Checkpoint"]) -> str:
    steps = [c.step for c in history if c.step is not None]
    return f"steps {min(steps)} to {max(steps)}" if steps else "no step in the names"


def _listed(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    return ", ".join(names[:MAX_LISTED]) + more


def _print_lines(head: str, text: str) -> None:
    """Print the head, and each line of the text indented below it."""
    print_line(head)
    for line in text.splitlines():
        print_line(f"          {line}")
