"""One row of the benchmark table: cost of some work here and in a reference, their ratio and the target."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal, NamedTuple

from jobs.bench.timing import Took

Unit = Literal["CPU s", "s", "MB", "relative error", "anisotropy", "exponent", "requests"]
"""Unit of a row: `CPU s` are CPU seconds of all threads, `s` are wall seconds, and the others are not times."""


class Wanted(NamedTuple):
    """Target of a row: the direction of the ratio, and its bound; a row without a bound is reported, but not judged."""

    sense: Literal["<=", ">="]
    """With "<=" the ratio is ours / reference (a cost), with ">=" it is reference / ours (a gain)."""
    bound: float | None = None

    def only_if(self, promised: bool) -> "Wanted":
        """Return this target, without its bound unless `promised`: a bound holds only at the size it was set for."""
        return self if promised else self._replace(bound=None)


def at_most(bound: float | None = None) -> Wanted:
    return Wanted("<=", bound)


def at_least(bound: float | None = None) -> Wanted:
    return Wanted(">=", bound)


class Subject(NamedTuple):
    """Measured work and its size."""

    group: str
    work: str
    n: int
    """Number of points, tokens, checkpoints, tasks, cells or rows, depending on `work`."""
    dim: int | None = None


@dataclass(frozen=True)
class Comparison:
    """Measurements of both sides, one per round, in `unit`."""

    subject: Subject
    reference: str
    unit: Unit
    ours: Sequence[float]
    theirs: Sequence[float]
    wanted: Wanted
    note: str = ""

    @property
    def ratios(self) -> list[float]:
        pairs = zip(self.ours, self.theirs, strict=True)
        return [o / t if self.wanted.sense == "<=" else t / o for o, t in pairs]

    @property
    def ratio(self) -> float:
        return median(self.ratios)

    @property
    def spread(self) -> float | None:
        """Median absolute deviation of the ratios; None for a single round."""
        return median(abs(r - self.ratio) for r in self.ratios) if len(self.ratios) > 1 else None

    @property
    def verdict(self) -> Literal["pass", "falls short"] | None:
        """`pass` if the ratio meets the bound, otherwise `falls short`; None without a bound."""
        sense, bound = self.wanted
        if bound is None:
            return None
        return "pass" if (self.ratio <= bound if sense == "<=" else self.ratio >= bound) else "falls short"

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> "Comparison":
        """Return the comparison that `to_json` wrote."""
        sense = "<=" if row["ratio_is"] == "ours / reference" else ">="
        bound = None if row["target"] is None else float(row["target"].split()[1])
        subject = Subject(*(row[field] for field in Subject._fields))
        rounds = row["ours_rounds"], row["theirs_rounds"]
        return cls(subject, row["reference"], row["unit"], *rounds, Wanted(sense, bound), row["note"])

    def to_json(self) -> dict[str, Any]:
        """Return every field, including all rounds; target and verdict are null without a bound."""
        sense, bound = self.wanted
        return {
            **self.subject._asdict(),
            "reference": self.reference,
            "unit": self.unit,
            "note": self.note,
            "ours": median(self.ours),
            "theirs": median(self.theirs),
            "ratio": self.ratio,
            "ratio_is": "ours / reference" if sense == "<=" else "reference / ours",
            "spread": self.spread,
            "target": None if bound is None else f"{sense} {bound:g}",
            "verdict": self.verdict,
            "rounds": len(self.ours),
            "ours_rounds": list(self.ours),
            "theirs_rounds": list(self.theirs),
        }


def compared(
    subject: Subject,
    ours: Sequence[Took],
    reference: str,
    theirs: Sequence[Took],
    wanted: Wanted,
    unit: Unit = "CPU s",
    note: str = "",
) -> Comparison:
    """Build a row from the times of two contenders in the same rounds; `unit` chooses CPU seconds or wall seconds."""
    mine, others = ([took.cpu if unit == "CPU s" else took.wall for took in side] for side in (ours, theirs))
    return Comparison(subject, reference, unit, mine, others, wanted, note)


def within(subject: Subject, ours: Sequence[Took], limit_s: float, note: str = "", promised: bool = True) -> Comparison:
    """Build a row that compares wall seconds with a fixed limit."""
    limits = [Took(limit_s, limit_s)] * len(ours)
    return compared(subject, ours, "limit", limits, at_most(1.0).only_if(promised), "s", note)


def unit_on(device: str) -> Unit:
    """Return the unit for compute-bound work: wall seconds on a GPU, CPU seconds otherwise."""
    return "s" if device == "cuda" else "CPU s"
