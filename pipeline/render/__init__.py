"""Terminal output of the commands. Data goes to standard output, everything else to standard error."""

from pipeline.render.claims import print_claims
from pipeline.render.comparisons import print_comparison, print_population
from pipeline.render.findings import print_briefs, print_findings
from pipeline.render.results import (
    print_audits,
    print_catalog,
    print_checks,
    print_csv,
    print_json_rows,
    print_layers,
    print_problems,
    print_query_result,
)
from pipeline.render.sweeps import print_plan, print_run_report, print_status

__all__ = [
    "print_audits",
    "print_briefs",
    "print_catalog",
    "print_checks",
    "print_claims",
    "print_comparison",
    "print_csv",
    "print_findings",
    "print_json_rows",
    "print_population",
]
__all__ += ["print_layers", "print_plan", "print_problems", "print_query_result", "print_run_report", "print_status"]
