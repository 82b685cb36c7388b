"""The catalogue, and audits of histories."""

from collections import Counter
from typing import Any

from pipeline.render.tables import console, format_bytes, table_from_records

SEVERITY_WORDS = {"error": "wrong", "warning": "lacking", "note": "note"}


def print_catalog(lines: list[dict[str, Any]]) -> None:
    """Families, models, or checkpoints: the columns in which something is said."""
    said = [name for name in lines[0] if any(line[name] not in (None, "", False) for line in lines)]
    shown = [{name: _short(name, line[name]) for name in said if name != "rule"} for line in lines]
    console().print(table_from_records(shown))
    if any(line.get("rule") == "generic" for line in lines):
        console().print("not in the catalogue: its names were read by the general rule")


def print_audits(histories: list[dict[str, Any]]) -> None:
    """Per model how many revisions are in which state, then what is wrong, the worst first."""
    out = console()
    for history in histories:
        counts = Counter(revision["state"] for revision in history["revisions"])
        states = " | ".join(f"{state} {count}" for state, count in counts.items())
        out.print(f"{history['model']}: {len(history['revisions'])} revisions ({states})", markup=False)
        for finding in history["findings"]:
            out.print(f"  {SEVERITY_WORDS[finding['severity']]:<8}{finding['says']}", markup=False)
        if not history["findings"]:
            out.print("  nothing wrong was found in the listings; weights were not read")


def _short(name: str, value: Any) -> Any:
    if name == "commit":
        return value and value[:8]
    if name == "bytes":
        return value and format_bytes(value)
    if name in ("step", "tokens"):
        return None if value is None else f"{value:,}"
    return ("yes" if value else None) if isinstance(value, bool) else value
