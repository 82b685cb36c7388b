"""Terminal output of published claims: the sentence of each, and one line per history."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.render.findings import print_aligned
from pipeline.terminal import escape_control, print_line


def print_claims(registry: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], correction: str) -> None:
    """Print each claim that has answers, then the names of the other claims, the totals, and the sentence `correction`.

    Under a claim, each history has one line with the answer, the effect and the reason.
    """
    for name, claim in registry.items():
        mine = [row for row in rows if row["claim"] == name]
        if not mine:
            continue
        print_line()
        print_line(f"{name} ({claim.short_reference}): {claim.sentence}")
        if any(row["effect"] is not None for row in mine):
            level = f"{100 * claim.level:g} %"
            print_line(f"  effect ({level} interval): {claim.quantity}; {claim.rule.replace('`', '')}")
        print_aligned([_cells(row) for row in mine])
    counts, asked = Counter(row["answer"] for row in rows), {row["claim"] for row in rows}
    print_line()
    if others := ", ".join(name for name in registry if name not in asked):
        print_line(f"claims without a matching history in this lake: {others}")
    print_line(", ".join(f"{word} {counts[word]}" for word in ("supports", "contradicts", "undecided")))
    print_line(correction)


def _cells(row: Mapping[str, Any]) -> list[str]:
    history = " · ".join(row[name] for name in ("model", "stage", "run") if row[name])
    text = " against ".join(row[name] for name in ("corpus", "null") if row[name])
    shown = [row["answer"], history, row["kind"] or "", text, format_effect(row), row["because"].rstrip(".")]
    return [escape_control(cell) for cell in shown]


def format_effect(row: Mapping[str, Any]) -> str:
    """Format an effect with its interval: `0.412 (0.380 to 0.444)`; `-` if it is null."""
    if row["effect"] is None:
        return "-"
    limits = "" if row["low"] is None else f" ({row['low']:.3g} to {row['high']:.3g})"
    return f"{row['effect']:.3g}{limits}"
