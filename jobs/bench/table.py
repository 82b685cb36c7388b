"""The table as Markdown, a line at a time."""

from statistics import median

from jobs.bench.comparison import Comparison

HEAD = ("work", "N", "d", "ours", "reference", "ratio", "target", "")


def head() -> str:
    return f"{_line(HEAD)}\n{_line(['---'] * len(HEAD))}"


def line(row: Comparison) -> str:
    """One comparison; the ratio with its median absolute deviation."""
    target = "" if row.wanted.bound is None else f"{row.wanted.sense} {row.wanted.bound:g} x"
    spread = "" if row.spread is None else f" ± {_short(row.spread)}"
    reference = f"{row.reference} {_short(median(row.theirs))}" + (f" ({row.note})" if row.note else "")
    return _line(
        (
            row.subject.work,
            f"{row.subject.n:,}",
            "" if row.subject.dim is None else f"{row.subject.dim:,}",
            f"{_short(median(row.ours))} {row.unit}",
            reference,
            f"{_short(row.ratio)}{spread} x",
            target,
            row.verdict or "",
        )
    )


def _line(cells: tuple[str, ...] | list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _short(value: float) -> str:
    """Three digits that count."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
