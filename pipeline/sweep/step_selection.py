"""Selection of sources by `--models` and of checkpoints by `--steps`."""

import math
from collections.abc import Callable, Iterable

from pipeline.errors import UsageError
from pipeline.sources import matches_model
from pipeline.spec import Checkpoint, CheckpointSource, Members, Sweep

CheckpointSelector = Callable[[list[Checkpoint]], list[Checkpoint]]
"""Function that maps the checkpoints of a history, in training order, to the selected ones."""

STEPS_SYNTAX = "all, log2, every:N, last, or steps such as 0,512,3000 (several joined by commas)"


def select_sources(sweep: Sweep) -> tuple[CheckpointSource, ...]:
    """Return the sources whose model may match `--models`; no other source is listed on the Hub or on disk."""
    chosen = tuple(s for s in sweep.checkpoints if isinstance(s, Members) or matches_model(s.name, sweep.models))
    if not chosen:
        names = ", ".join(source.name for source in sweep.checkpoints)
        raise UsageError(
            f"--models {sweep.models}", f"matches none of {names}", "Write --models with one of these names"
        )
    return chosen


def select_checkpoints(
    histories: Iterable[Iterable[Checkpoint]], steps: str, must_match: bool = True
) -> tuple[Checkpoint, ...]:
    """Select checkpoints by `steps` from each history separately.

    `every:N` and numbers match steps in every stage and run. `log2` selects, per stage and run, the checkpoint nearest
    to each power of two, on a scale of steps; if no checkpoint states a step, of tokens; otherwise of the number of the
    checkpoint in its series. `last` selects the last checkpoint of each run that reaches the last stage. `log2` and
    `last` ignore a final model that states neither step, tokens, stage nor run, unless this is so for all checkpoints
    of the history.

    Args:
        histories: the checkpoints of each history, in training order.
        must_match: refuse a part of `steps` that matches no checkpoint of any history.

    Raises:
        UsageError: `steps` is not valid or, with `must_match`, is empty or has a part that matches no checkpoint.
    """
    listed = [list(history) for history in histories]
    parts = [part.strip() for part in steps.split(",") if part.strip()]
    if must_match:
        _require_matches(parts, listed)
    return tuple(c for history in listed for c in _chosen(history, parts))


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
    raise UsageError(f"--steps {part}", "not a valid selection", f"Write {STEPS_SYNTAX}")


def _interval(part: str) -> int:
    """Return N of `every:N`; 0 for any other text."""
    number = part.removeprefix("every:")
    return int(number) if number != part and number.isdecimal() else 0


def _last(history: list[Checkpoint]) -> list[Checkpoint]:
    """Return the last checkpoint of each run that reaches the last stage.

    A run that ends in an earlier stage, such as a trunk that other runs continue, is left out.
    """
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
    """Return the checkpoints nearest to the powers of two, on the scale that `select_checkpoints` describes."""
    stated = ([getattr(c, name) for c in line] for name in ("step", "tokens_seen"))
    values = next((found for found in stated if any(v is not None for v in found)), range(1, len(line) + 1))
    wanted = _nearest_powers(sorted({v for v in values if v is not None}))
    return [c for c, value in zip(line, values, strict=True) if value in wanted]


def _nearest_powers(values: list[int]) -> set[int]:
    """Return 0 if present, the value nearest to each power of two on a log scale, and the largest value."""
    positive = [value for value in values if value > 0]
    powers = range((positive[-1] if positive else 0).bit_length())
    nearest = {min(positive, key=lambda value: abs(math.log2(value) - power)) for power in powers}
    return nearest | {value for value in values if value == 0} | {*values[-1:]}


def _with_position(history: list[Checkpoint]) -> list[Checkpoint]:
    """Drop checkpoints that state neither step, tokens, stage nor run; if all are like this, keep all."""
    return [c for c in history if {c.step, c.tokens_seen, c.stage, c.run} != {None}] or history


def _require_matches(parts: list[str], histories: list[list[Checkpoint]]) -> None:
    if not parts:
        raise UsageError("--steps", "empty selection", f"Write {STEPS_SYNTAX}")
    available = [c for history in histories for c in history]
    for part in parts:
        selector = _selector(part)
        if available and not any(selector(history) for history in histories):
            near = _nearest(part, {c.step for c in available if c.step is not None})
            do = f"Choose one of the nearest steps: {', '.join(map(str, near))}" if near else "Use all, log2 or last"
            raise UsageError(f"--steps {part}", "no such step" if near else "no checkpoint states a step", do)


def _nearest(part: str, steps: set[int]) -> list[int]:
    """Return at most three of `steps`: those nearest to the selected step or, for `every:N`, to a multiple of N."""
    interval = _interval(part)
    distance = lambda step: min(step % interval, -step % interval) if interval else abs(step - int(part))  # noqa: E731
    return sorted(sorted(steps), key=distance)[:3]


SELECTORS: dict[str, CheckpointSelector] = {"all": list, "last": _last, "log2": _log2}
