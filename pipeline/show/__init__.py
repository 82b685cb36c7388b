"""What the commands print for people. Data goes to standard output, everything else to standard error."""

from pipeline.show.histories import audits, listing
from pipeline.show.results import csv, findings, json_rows, result, rows
from pipeline.show.sweeps import plan, report, status

__all__ = ["audits", "csv", "findings", "json_rows", "listing", "plan", "report", "result", "rows", "status"]
