"""What a revision's name says about its place in training. Nothing is guessed: an unknown part leaves it unparsed."""

import re
from decimal import Decimal
from typing import NamedTuple

_PARTS = "|".join(
    (
        r"(?:global[-_]?)?(?:step|iter|iteration|checkpoint|ckpt|chck)[-_=]?(?P<step>\d+)(?P<kilo>k?)",
        r"tokens?[-_=]?(?P<tokens>\d+(?:\.\d+)?)(?P<unit>[kmbt])",
        r"(?:stage|phase)[-_=]?(?P<stage>\d+)",
        r"(?:seed|ingredient)[-_=]?(?P<run>[a-z0-9]+)",
    )
)
_PART = re.compile(rf"(?:{_PARTS})(?:[-_.]|$)", re.IGNORECASE)
_UNITS = {"k": 10**3, "m": 10**6, "b": 10**9, "t": 10**12}


class Place(NamedTuple):
    """Where a checkpoint stands in training; null where its name does not say."""

    step: int | None = None
    tokens: int | None = None
    stage: str | None = None
    run: str | None = None

    @property
    def order(self) -> tuple[str, int, int, int]:
        """Training order: run, stage, step, tokens; what has no place comes last."""
        last = 2**63
        return (
            self.run or "",
            last if self.stage is None and self.step is None and self.tokens is None else int(self.stage or 0),
            last if self.step is None else self.step,
            last if self.tokens is None else self.tokens,
        )


def parse(name: str) -> Place | None:
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
    if not found.keys() & {"step", "tokens"}:
        return None
    return Place(
        step=int(found["step"]) * (1000 if "kilo" in found else 1) if "step" in found else None,
        tokens=int(Decimal(found["tokens"]) * _UNITS[found["unit"].lower()]) if "tokens" in found else None,
        stage=found.get("stage"),
        run=found.get("run"),
    )
