"""A plan, how a run ended, and what the lake holds, in a few lines each."""

import shlex
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pipeline.render.tables import console, format_bytes, table_from_records

if TYPE_CHECKING:  # half a second that a query need not wait for
    from pipeline.catalog.revisions import History
    from pipeline.spec import Checkpoint
    from pipeline.sweep.cost import Cost
    from pipeline.sweep.driver import RunReport
    from pipeline.sweep.plan import Plan

MAX_LISTED = 10


def print_plan(made: "Plan", lake: str) -> None:
    """The plan as a few lines: what there is, what is wanted, what runs and why."""
    out = console()
    corpora = ", ".join(f"{c.id} (sha256 {c.sha256[:8]})" if c.sha256 else c.id for c in made.sweep.corpora)
    done = len(made.cells) - len(made.todo) - len(made.quarantined_cells)
    out.print(f"sweep     {made.sweep.name}   recipe {made.sweep.recipe.label}   lake {lake}", markup=False)
    for history in {h.model: h for h in made.histories}.values():
        out.print(f"history   {history.model}: {_describe_wanted(made, history)}{_states(history)}", markup=False)
    out.print(f"corpora   {corpora}", markup=False)
    out.print(
        f"cells     {len(made.cells)} wanted   {done} done   {len(made.quarantined_cells)} quarantined   {len(made.todo)} to run"
    )
    if made.todo:
        out.print("reason    " + " | ".join(f"{reason} {count}" for reason, count in made.count_reasons().items()))
        out.print(f"cost      {_cost(made.cost)}", markup=False)
    for what, folders in (("unparsed", made.unparsed_names), ("ignored", made.other_folders)):
        if folders:
            why = "names no step, not measured" if what == "unparsed" else "no checkpoint"
            out.print(f"{what:<10}{_listed(folders)} ({why})", markup=False)
    for model, finding in made.findings[:MAX_LISTED]:
        out.print(f"warning   {model}: {finding.says}", markup=False)
    if more := made.findings[MAX_LISTED:]:
        out.print(
            f"warning   and {len(more)} more: shapelake audit {' '.join(sorted({m for m, _ in more}))}", markup=False
        )
    for cell in made.quarantined_cells[:MAX_LISTED]:
        out.print(f"held      {cell.name} is quarantined: {_failures_command(lake)}", markup=False)


def print_run_report(done: "RunReport", made: "Plan", lake: str) -> None:
    """How a run ended: what is there now, and for each failure its cause and the command that shows it again."""
    from pipeline.sweep.plan import reproduction_command

    out = console()
    for cell, outcome in done.failures.values():
        out.print(f"\nFAILED    {cell.name}: {outcome.error_class}\n{_indented(outcome.message)}", markup=False)
        out.print(f"          again: {reproduction_command(cell)}", markup=False)
    for one in done.left_out:
        out.print(f"\nLEFT OUT  {one}\n          run where a node has more, or exclude it by --models", markup=False)
    if done.stop_reason:
        out.print(f"\nSTOPPED   {done.stop_reason}", markup=False)
    total = len(made.cells) - len(made.todo) + done.committed - len(done.quarantined_cells)
    parts = [f"{total} of {len(made.cells)} wanted cells are in the lake", f"{done.committed} new"]
    parts += [f"{len(done.failures)} failed"] if done.failures else []
    parts += [f"{len(done.quarantined_cells)} quarantined"] if done.quarantined_cells else []
    parts += [f"{sum(one.cells for one in done.left_out)} left out"] if done.left_out else []
    parts += [f"{done.n_unfinished} left to a rerun"] if done.n_unfinished else []
    out.print(f"\nlake      {lake}: " + ", ".join(parts), markup=False)


def print_status(state: dict[str, Any], failed: bool) -> None:
    """The lake per model, the last runs, and what failed."""
    out = console()
    if failed:
        for failure in state["failures"]:
            out.print(_failure(failure), markup=False)
        if not state["failures"]:
            out.print("nothing failed")
        return
    out.print(table_from_records(state["models"]) if state["models"] else "no cell is committed yet")
    for run in state["runs"][-3:]:
        ended = "ended" if run["ended"] else "running or cut off"
        counts = f"{run['committed']}/{run['to_run']} cells, {run['failed']} failed"
        counts += f", {sum(one['cells'] for one in run['left_out'])} left out" if run.get("left_out") else ""
        counts += f", slots busy {run['busy']:.0%}" if run.get("busy") else ""
        counts += f", {run['gpu_wait_s']:.0f} s free for want of files" if run.get("gpu_wait_s", 0.0) >= 1 else ""
        out.print(f"run {run['run_id']} ({run['sweep']}): {counts}, {ended}, last heard of {run['when']}", markup=False)
    if state["failures"]:
        out.print(f"{len(state['failures'])} failures: {_failures_command(state['lake'])}", markup=False)


def _describe_wanted(made: "Plan", history: "History") -> str:
    """How many checkpoints of it the sweep wants, or why none."""
    chosen = [c for c in made.checkpoints if c.model == history.model]
    if chosen:
        return f"{len(chosen)} checkpoints, {_span(chosen)}"
    if there := history.checkpoints:
        return f"none of {len(there)} checkpoints by --steps {made.sweep.steps}, {_span(there)}"
    why = dict.fromkeys(revision.state_reason for revision in history.revisions if revision.state_reason)
    return "nothing to measure: " + (
        _listed(tuple(why)) or ("no such repo" if history.missing_on_hub else "it is empty")
    )


def _states(history: "History") -> str:
    """How its revisions stand against the lake; of a local history nothing that the other lines do not say."""
    if history.family_name == "local" or not history.revisions:
        return ""
    counts = Counter(revision.state for revision in history.revisions)
    rule = ", names read by the general rule" if history.family_name == "generic" else ""
    return f" ({' | '.join(f'{state} {n}' for state, n in counts.items())}{rule})"


def _cost(cost: "Cost") -> str:
    hours = "time unknown" if cost.hours is None else f"{cost.hours:.2g} {cost.unit}, {cost.basis}"
    if not cost.download_bytes:
        return f"nothing to download; {hours}"
    return f"{format_bytes(cost.download_bytes)} to download, {format_bytes(cost.disk_bytes)} of disk at once; {hours}"


def _failures_command(lake: str) -> str:
    return shlex.join(["shapelake", "status", "--failed", "--lake", lake])


def _failure(failure: dict[str, Any]) -> str:
    return (
        f"{failure['label']} {failure['corpus']} {failure['recipe']}: {failure['class']}, "
        f"{failure['attempts']} attempts, last {failure['when']}\n{_indented(failure['message'])}\n"
        f"          again: {failure['command']}"
    )


def _span(history: Sequence["Checkpoint"]) -> str:
    steps = [c.step for c in history if c.step is not None]
    return f"steps {min(steps)} to {max(steps)}" if steps else "no step stated"


def _listed(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    return ", ".join(names[:MAX_LISTED]) + more


def _indented(text: str) -> str:
    return "\n".join(f"          {line}" for line in text.splitlines())
