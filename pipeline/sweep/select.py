"""Which checkpoints of a history: `--steps` and `--models`."""

import math
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase

from pipeline.errors import UsageError
from pipeline.spec import Checkpoint, Members, Source, Sweep

FORMS = "all, log2, every:N, last, or steps such as 0,512,3000 (several joined by commas)"


def sources(sweep: Sweep) -> tuple[Source, ...]:
    """The sources whose model may match the sweep's glob; the others are not even looked at."""
    chosen = tuple(s for s in sweep.checkpoints if isinstance(s, Members) or fnmatchcase(s.name, sweep.models))
    if not chosen:
        names = ", ".join(source.name for source in sweep.checkpoints)
        raise UsageError(f"--models {sweep.models}", f"none of {names}", "Give a glob that matches one")
    return chosen


def select(histories: Iterable[Iterable[Checkpoint]], steps: str) -> tuple[Checkpoint, ...]:
    """The checkpoints at the steps wanted; each history is thinned on its own."""
    thinned = [list(history) for history in histories]
    parts = [part.strip() for part in steps.split(",") if part.strip()]
    _refuse_what_matches_nothing(parts, thinned)
    return tuple(c for history in thinned for c in _at_steps(history, parts))


def _at_steps(history: list[Checkpoint], parts: list[str]) -> list[Checkpoint]:
    if "all" in parts:
        return history
    known = sorted({c.step for c in history if c.step is not None})
    if not known:  # a final model without a step is its own last
        return history if "last" in parts else []
    wanted = {step for part in parts for step in _rule(part)(known)}
    return [c for c in history if c.step in wanted]


def _rule(part: str) -> Callable[[list[int]], Iterable[int]]:
    if part == "log2":
        return _nearest_powers
    if part == "last":
        return lambda known: known[-1:]
    if interval := _interval(part):
        return lambda known: [step for step in known if step % interval == 0]
    if part.isdecimal():
        return lambda known: [int(part)]
    raise UsageError(f"--steps {part}", "not a selection", f"Use {FORMS}")


def _interval(part: str) -> int:
    """N of `every:N`; 0 for what is none."""
    number = part.removeprefix("every:")
    return int(number) if number != part and number.isdecimal() else 0


def _nearest_powers(known: list[int]) -> list[int]:
    """Step 0 where it is, and the step nearest to each power of two on a log scale, up to the last step."""
    positive = [step for step in known if step > 0]
    powers = range((positive[-1] if positive else 0).bit_length())
    nearest = [min(positive, key=lambda step: abs(math.log2(step) - power)) for power in powers]
    return [step for step in known if step == 0] + nearest


def _refuse_what_matches_nothing(parts: list[str], histories: list[list[Checkpoint]]) -> None:
    if not parts:
        raise UsageError("--steps", "nothing given", f"Use {FORMS}")
    for part in parts:
        if part != "all":
            _rule(part)
        if not any(_at_steps(history, [part]) for history in histories):
            near = _nearest(part, {c.step for history in histories for c in history if c.step is not None})
            do = f"The nearest are {', '.join(map(str, near))}" if near else "Use all or last"
            raise UsageError(f"--steps {part}", "no such step" if near else "no checkpoint states a step", do)


def _nearest(part: str, steps: set[int]) -> list[int]:
    """Up to three steps nearest to the one that `part` asks for, or to a multiple of N for `every:N`."""
    interval = _interval(part)
    away = lambda step: min(step % interval, -step % interval) if interval else abs(step - int(part))  # noqa: E731
    return sorted(sorted(steps), key=away)[:3]
