"""What a revision's name says about its place in training. Nothing is guessed: an unknown part leaves it unparsed."""

import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Literal, NamedTuple

_PARTS = "|".join(
    (
        r"(?:global[-_]?)?(?:step|iter|iteration|checkpoint|ckpt|chck)[-_=]?(?P<step>\d+)(?P<kilo>k?)",
        r"tokens?[-_=]?(?P<tokens>\d+(?:\.\d+)?)(?P<unit>[kmbt])",
        r"(?:stage|phase)[-_=]?(?P<stage>\d+)",
        r"(?:seed|ingredient)[-_=]?(?P<run>[a-z0-9]+)",
    )
)
_PART = re.compile(rf"(?:{_PARTS})(?:[-_.]|$)", re.IGNORECASE)
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "t": 10**12}
_NO_POINT = re.compile(r"main|refs/.*|pr/\d+|v\d+(?:\.\d+)*|[0-9a-f]{40}")

MIN_PARSED_NAMES, MIN_PARSED_SHARE = 3, 0.8
"""Least number, and least share, of a repo's names that must parse before the generic rule is believed."""

TokensSource = Literal["name", "step-times-batch"]
SORTS_LAST = 2**63
"""Sorts what has no place behind everything that has."""
STEP_LIMIT, TOKEN_LIMIT, GROUP_LENGTH_LIMIT = 10**12, SORTS_LAST, 100
"""What no publisher counts to: steps, tokens, and the characters of a number or a run's name."""


class TrainingPoint(NamedTuple):
    """Where a checkpoint stands in training; null where its name does not say."""

    step: int | None = None
    tokens: int | None = None
    stage: str | None = None
    run: str | None = None
    tokens_source: TokensSource | None = None
    position: int | None = None
    """Orders a history whose publisher counts something else: words, chunks of data."""

    @property
    def sort_key(self) -> tuple:
        """Training order: run, stage, step, tokens; what has no place comes last."""
        placed = any(value is not None for value in (self.stage, self.step, self.tokens, self.position))
        return (run_sort_key(self.run), int(self.stage or 0) if placed else SORTS_LAST, *self.sort_key_in_stage)

    @property
    def sort_key_in_stage(self) -> tuple[int, int]:
        """Step, then tokens or position: the order within a stage of a run."""
        seen = self.position if self.tokens is None else self.tokens
        return (SORTS_LAST if self.step is None else self.step, SORTS_LAST if seen is None else seen)


def parse_name(name: str) -> TrainingPoint | None:
    """The place that `name` states, or None if any part of it is unknown or it names neither step nor tokens.

    Known: step512, checkpoint-1000, global_step1000, iter_0002000, step-50k-token-105b, step1000-tokens2B,
    stage2-ingredient1-step500-tokens3B, step100-seed-default.
    """
    found: dict[str, str] = {}
    at = 0
    while at < len(name):
        part = _PART.match(name, at)
        if part is None:
            return None
        said = {key: value for key, value in part.groupdict().items() if value}
        if said.keys() & found.keys():
            return None
        found |= said
        at = part.end()
    return parse_groups(found) if found.keys() & {"step", "tokens"} else None


def parse_groups(found: Mapping[str, str | None]) -> TrainingPoint | None:
    """The place in the named groups of a match: step and kilo, tokens or position and their unit, stage, run.

    Exact: 16.78B is 16,780,000,000, which a float is not. None where a number is beyond STEPS or TOKENS.
    """
    if any(len(value) > GROUP_LENGTH_LIMIT for value in found.values() if value):
        return None
    scale = _UNITS[(found.get("unit") or "").lower()]
    counted = {kind: int(Decimal(count) * scale) for kind in ("tokens", "position") if (count := found.get(kind))}
    step = found.get("step")
    place = TrainingPoint(
        step=int(step) * (1000 if found.get("kilo") else 1) if step else None,
        tokens=counted.get("tokens"),
        stage=found.get("stage"),
        run=found.get("run"),
        tokens_source="name" if "tokens" in counted else None,
        position=counted.get("position"),
    )
    return place if (place.step or 0) < STEP_LIMIT and all(n < TOKEN_LIMIT for n in counted.values()) else None


def run_sort_key(run: str | None) -> tuple[int, int, str]:
    """The run without a name first, numbered runs by number, then the others by name."""
    if run is None:
        return (0, 0, "")
    return (1, int(run), run) if run.isdecimal() else (2, 0, run)


def is_ignored_name(name: str) -> bool:
    """Whether `name` is of a kind that is no point of any history: main, refs/*, pr/N, v1.0, a commit."""
    return _NO_POINT.fullmatch(name) is not None


def has_enough_parsed_names(names: Iterable[str]) -> bool:
    """Whether the generic rule is to be believed of a repo with these names: enough of them parse."""
    points = [name for name in names if not is_ignored_name(name)]
    parsed = sum(parse_name(name) is not None for name in points)
    return parsed >= MIN_PARSED_NAMES and parsed >= MIN_PARSED_SHARE * len(points)
