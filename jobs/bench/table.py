"""Markdown table of comparisons, one line at a time."""

from statistics import median

from jobs.bench.comparison import Comparison

HEAD = ("work", "N", "d", "ours", "reference", "ratio", "target", "")


def head() -> str:
    return f"{_format_row(HEAD)}\n{_format_row(['---'] * len(HEAD))}"


def line(row: Comparison) -> str:
    """Format one comparison; the ratio is followed by its median absolute deviation."""
    target = "" if row.wanted.bound is None else f"{row.wanted.sense} {row.wanted.bound:g} x"
    spread = "" if row.spread is None else f" ± {_format_number(row.spread)}"
    reference = f"{row.reference} {_format_number(median(row.theirs))}" + (f" ({row.note})" if row.note else "")
    return _format_row(
        (
            row.subject.work,
            f"{row.subject.n:,}",
            "" if row.subject.dim is None else f"{row.subject.dim:,}",
            f"{_format_number(median(row.ours))} {row.unit}",
            reference,
            f"{_format_number(row.ratio)}{spread} x",
            target,
            row.verdict or "",
        )
    )


def _format_row(cells: tuple[str, ...] | list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _format_number(value: float) -> str:
    """Format with three significant digits."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
