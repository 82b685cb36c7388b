"""What the commands print for people. Data goes to standard output, everything else to standard error."""

from pipeline.render.histories import audits, listing
from pipeline.render.results import checks, csv, findings, json_rows, problems, result, rows
from pipeline.render.sweeps import plan, report, status

__all__ = [
    "audits",
    "checks",
    "csv",
    "findings",
    "json_rows",
    "listing",
    "plan",
    "problems",
    "report",
    "result",
    "rows",
    "status",
]
