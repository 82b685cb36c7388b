"""Which checkpoints of a history: `--steps` and `--models`."""

import math
from collections.abc import Callable, Iterable

from pipeline.errors import UsageError
from pipeline.sources import matches_model
from pipeline.spec import Checkpoint, CheckpointSource, Members, Sweep

CheckpointSelector = Callable[[list[Checkpoint]], list[Checkpoint]]
"""What of a history in training order is wanted."""

STEPS_SYNTAX = "all, log2, every:N, last, or steps such as 0,512,3000 (several joined by commas)"


def select_sources(sweep: Sweep) -> tuple[CheckpointSource, ...]:
    """The sources whose model may match the sweep's glob; the others are not even looked at."""
    chosen = tuple(s for s in sweep.checkpoints if isinstance(s, Members) or matches_model(s.name, sweep.models))
    if not chosen:
        names = ", ".join(source.name for source in sweep.checkpoints)
        raise UsageError(f"--models {sweep.models}", f"none of {names}", "Give a glob that matches one")
    return chosen


def select_checkpoints(histories: Iterable[Iterable[Checkpoint]], steps: str) -> tuple[Checkpoint, ...]:
    """The checkpoints that `steps` wants of each history, every one thinned on its own.

    `every:N` and numbers are steps, whatever the stage and run. `log2` thins each stage of each run, by its steps, else
    by its tokens, else by the order. `last` is the end of training: of siblings, that of each. A final model without a
    place counts for these two only where no other has one either.

    Args:
        histories: each in training order.

    Raises:
        UsageError: no selection, or one that matches nothing although there are checkpoints.
    """
    thinned = [list(history) for history in histories]
    parts = [part.strip() for part in steps.split(",") if part.strip()]
    _refuse_what_matches_nothing(parts, thinned)
    return tuple(c for history in thinned for c in _chosen(history, parts))


def _chosen(history: list[Checkpoint], parts: list[str]) -> list[Checkpoint]:
    wanted = {c.revision for part in parts for c in _selector(part)(history)}
    return [c for c in history if c.revision in wanted]


def _selector(part: str) -> CheckpointSelector:
    if part in SELECTORS:
        return SELECTORS[part]
    if interval := _interval(part):
        return lambda history: [c for c in history if c.step is not None and c.step % interval == 0]
    if part.isdecimal():
        return lambda history: [c for c in history if c.step == int(part)]
    raise UsageError(f"--steps {part}", "not a selection", f"Use {STEPS_SYNTAX}")


def _interval(part: str) -> int:
    """N of `every:N`; 0 for what is none."""
    number = part.removeprefix("every:")
    return int(number) if number != part and number.isdecimal() else 0


def _last(history: list[Checkpoint]) -> list[Checkpoint]:
    """The end of each run that reaches the last stage: a trunk that others go on from has none of its own."""
    ends = {c.run: c for c in _with_position(history)}.values()
    stages = list(dict.fromkeys(c.stage for c in history))
    rank = lambda c: (int(c.stage) if (c.stage or "").isdecimal() else 0, stages.index(c.stage))  # noqa: E731
    reached = max(map(rank, ends), default=None)
    return [c for c in ends if rank(c) == reached]


def _log2(history: list[Checkpoint]) -> list[Checkpoint]:
    lines: dict[tuple[str | None, str | None], list[Checkpoint]] = {}
    for c in _with_position(history):
        lines.setdefault((c.run, c.stage), []).append(c)
    return [c for line in lines.values() for c in _thinned(line)]


def _thinned(line: list[Checkpoint]) -> list[Checkpoint]:
    """Those at the coordinates nearest to the powers of two, all in the one coordinate that the line has."""
    stated = ([getattr(c, name) for c in line] for name in ("step", "tokens_seen"))
    places = next((found for found in stated if any(place is not None for place in found)), range(1, len(line) + 1))
    wanted = _nearest_powers(sorted({place for place in places if place is not None}))
    return [c for c, place in zip(line, places, strict=True) if place in wanted]


def _nearest_powers(known: list[int]) -> set[int]:
    """0 where it is, and the one nearest to each power of two on a log scale, up to the last."""
    positive = [place for place in known if place > 0]
    powers = range((positive[-1] if positive else 0).bit_length())
    nearest = {min(positive, key=lambda place: abs(math.log2(place) - power)) for power in powers}
    return nearest | {place for place in known if place == 0}


def _with_position(history: list[Checkpoint]) -> list[Checkpoint]:
    """Without a final model that says nothing of its place, unless none does."""
    return [c for c in history if {c.step, c.tokens_seen, c.stage, c.run} != {None}] or history


def _refuse_what_matches_nothing(parts: list[str], histories: list[list[Checkpoint]]) -> None:
    if not parts:
        raise UsageError("--steps", "nothing given", f"Use {STEPS_SYNTAX}")
    there = [c for history in histories for c in history]
    for part in parts:
        rule = _selector(part)
        if there and not any(rule(history) for history in histories):
            near = _nearest(part, {c.step for c in there if c.step is not None})
            do = f"The nearest are {', '.join(map(str, near))}" if near else "Use all, log2 or last"
            raise UsageError(f"--steps {part}", "no such step" if near else "no checkpoint states a step", do)


def _nearest(part: str, steps: set[int]) -> list[int]:
    """Up to three steps nearest to the one that `part` asks for, or to a multiple of N for `every:N`."""
    interval = _interval(part)
    away = lambda step: min(step % interval, -step % interval) if interval else abs(step - int(part))  # noqa: E731
    return sorted(sorted(steps), key=away)[:3]


SELECTORS: dict[str, CheckpointSelector] = {"all": list, "last": _last, "log2": _log2}
"""What each word stands for."""
