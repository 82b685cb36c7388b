"""Plans and run reports as JSON. Field names are stable: names are added, never renamed or removed."""

from typing import Any

from pipeline.spec import Cell
from pipeline.sweep.plan import Plan, reproduction_command
from pipeline.sweep.prior_results import REASON_CODES
from pipeline.sweep.run_report import RunReport
from pipeline.sweep.task import Outcome


def describe_plan(plan: Plan) -> dict[str, Any]:
    """Return a plan as JSON values, with one entry per wanted cell under `cells`.

    An entry has `state` (done, quarantined or to_run) and `reason` (a value of REASON_CODES; None unless `to_run`).
    """
    return plan.to_json() | {"cells": [_describe_cell(cell, plan) for cell in plan.cells]}


def _describe_cell(cell: Cell, plan: Plan) -> dict[str, Any]:
    state = "done" if cell.id in plan.committed else "quarantined" if cell.id in plan.quarantined else "to_run"
    return {
        "cell_id": cell.id,
        "name": cell.name,
        **{name: getattr(cell.checkpoint, name) for name in ("model", "revision", "step", "stage", "run")},
        **{"kind": cell.kind, "corpus": cell.corpus.id, "recipe": cell.recipe.label, "state": state},
        "reason": REASON_CODES[plan.reason_by_cell[cell.id]] if state == "to_run" else None,
        "failures": dict(plan.attempts.get(cell.id, {})),
    }


def describe_run(report: RunReport, plan: Plan) -> dict[str, Any]:
    """Return the result of a run as JSON values."""
    done = len(plan.cells) - len(plan.todo) + report.n_done - len(report.quarantined_cells)
    return {
        "wanted": len(plan.cells),
        "in_lake": done,
        "new": report.committed,
        "by_other_runs": report.by_others,
        "failed": [_describe_failure(cell, outcome) for cell, outcome in report.failures.values()],
        "quarantined": [cell.name for cell in report.quarantined_cells],
        "left_out": [cells._asdict() for cells in report.left_out],
        "left_out_by_limit": plan.left_out_by_limit,
        "unfinished": report.n_unfinished,
        "models_not_listed": report.unlisted_models,
        "stop_reason": report.stop_reason or None,
        "exit_code": report.exit_code,
    }


def _describe_failure(cell: Cell, outcome: Outcome) -> dict[str, Any]:
    return {
        "cell_id": cell.id,
        "name": cell.name,
        "class": outcome.error_class,
        "message": outcome.message,
        "command": reproduction_command(cell),
    }
