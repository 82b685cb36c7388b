"""Parsing of revision names to training points. Names are never guessed: an unknown part leaves a name unparsed."""

import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Literal, NamedTuple

from pipeline.errors import UsageError

_PARTS = "|".join(
    (
        r"(?:global[-_]?)?(?:step|iter|iteration|checkpoint|ckpt|chck)[-_=]?(?P<step>\d+)(?P<kilo>k?)",
        r"tokens?[-_=]?(?P<tokens>\d+(?:\.\d+)?)(?P<unit>[kmbt])",
        r"(?:stage|phase)[-_=]?(?P<stage>\d+)",
        r"(?:seed|ingredient)[-_=]?(?P<run>[a-z0-9]+)",
        r"ba(?P<batch>\d+)",
        r"(?:epoch|ep|rank)[-_=]?\d+",
        r"unsharded|hf|ckpt|merged",
    )
)
"""Regex of the known parts of a name. These trainers write such names:

- step-1000: torchtitan (checkpoint.py `step-{n}`), litgpt (`step-00001000`)
- checkpoint-500: Trainer of transformers, axolotl
- global_step1000: DeepSpeed
- iter_0002000: Megatron-LM (`get_checkpoint_name`), litgpt (`iter-000100-ckpt`)
- step1000-unsharded: OLMo (`checkpoint.py`)
- ep0-ba100, ep0-ba100-rank0: composer and llm-foundry (`save_filename`), where ba counts batches
- epoch=1-step=500: Lightning (`ModelCheckpoint`)
"""
_PART = re.compile(rf"(?:{_PARTS})(?:[-_.]|$)", re.IGNORECASE)
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "t": 10**12}
_IGNORED = re.compile(r"main|refs/.*|pr/\d+|v\d+(?:\.\d+)*|[0-9a-f]{40}")

MIN_PARSED_NAMES, MIN_PARSED_SHARE = 3, 0.8
"""The generic rule applies to a repo only if at least this number and this fraction of its names can be parsed."""

TokensSource = Literal["name", "step-times-batch"]
SORTS_LAST = 2**63
"""Number that stands for a missing step, token count or stage in sort keys; it exceeds every known one."""
STEP_LIMIT, TOKEN_LIMIT, GROUP_LENGTH_LIMIT = 10**12, SORTS_LAST, 100
"""Exclusive limits of plausible steps and tokens, and the maximum number of characters of any part. A name that exceeds
one of them is not parsed."""


class TrainingPoint(NamedTuple):
    """Point in training at which a checkpoint was saved; a field is None if it is unknown."""

    step: int | None = None
    tokens: int | None = None
    stage: str | None = None
    run: str | None = None
    tokens_source: TokensSource | None = None
    position: int | None = None
    """Training progress in the publisher's own unit, such as words or chunks of data."""

    @property
    def sort_key(self) -> tuple:
        """Key that sorts points by run, then stage, then step, then tokens or `position`; an empty point sorts last."""
        known = any(value is not None for value in (self.stage, self.step, self.tokens, self.position))
        return (run_sort_key(self.run), int(self.stage or 0) if known else SORTS_LAST, *self.sort_key_in_stage)

    @property
    def sort_key_in_stage(self) -> tuple[int, int]:
        """Key that sorts points within one stage of a run: (step, tokens), or (step, `position`) if tokens is None.

        SORTS_LAST takes the place of a step or count that is None.
        """
        count = self.position if self.tokens is None else self.tokens
        return (SORTS_LAST if self.step is None else self.step, SORTS_LAST if count is None else count)


def parse_name(name: str) -> TrainingPoint | None:
    """Parse a revision name; None if any part is unknown, or if the name states neither step nor tokens.

    Known forms: step512, checkpoint-1000, global_step1000, iter_0002000, step-50k-token-105b, step1000-tokens2B,
    stage2-ingredient1-step500-tokens3B, step100-seed-default, ep0-ba100, step1000-unsharded, epoch=1-step=500.
    """
    groups: dict[str, str] = {}
    at = 0
    while at < len(name):
        if (part := _PART.match(name, at)) is None:
            return None
        new = {"step" if key == "batch" else key: value for key, value in part.groupdict().items() if value}
        if new.keys() & groups.keys():
            return None
        groups |= new
        at = part.end()
    return parse_groups(groups) if groups.keys() & {"step", "tokens"} else None


def parse_folder_name(name: str) -> TrainingPoint | None:
    """Parse a checkpoint folder's name like `parse_name`; also parse a bare step such as 1000, which nanotron
    writes."""
    return parse_name(name) or (parse_groups({"step": name}) if name.isdecimal() and name.isascii() else None)


def parse_with_pattern(name: str, pattern: str) -> TrainingPoint | None:
    """Parse a name with a regular expression of the user, which has groups of `parse_groups`; None if it does not
    match.

    Raises:
        UsageError: a group that must be a number has other characters.
    """
    if (match := re.fullmatch(pattern, name)) is None:
        return None
    try:
        int(match.groupdict().get("stage") or 0)  # points of local folders are sorted by this number
        return parse_groups(match.groupdict())
    except (ValueError, ArithmeticError, LookupError) as error:
        found = f"it reads {match.groupdict()}, and step, tokens and stage must be numbers"
        raise UsageError(f"pattern {pattern} for {name}", found, r"Write (?P<step>\d+) in the pattern") from error


def parse_groups(groups: Mapping[str, str | None]) -> TrainingPoint | None:
    """Parse the named groups of a regex match: step (with kilo), tokens or position (with unit), stage and run.

    The result is None if a number reaches STEP_LIMIT or TOKEN_LIMIT, or if a group is longer than GROUP_LENGTH_LIMIT.
    Decimal arithmetic makes 16.78B exactly 16,780,000,000, which a product of floats does not.

    Raises:
        ValueError: step or tokens is not a number.
    """
    if any(len(value) > GROUP_LENGTH_LIMIT for value in groups.values() if value):
        return None
    scale = _UNITS[(groups.get("unit") or "").lower()]
    counts = {kind: int(Decimal(count) * scale) for kind in ("tokens", "position") if (count := groups.get(kind))}
    step = int(digits) * (1000 if groups.get("kilo") else 1) if (digits := groups.get("step")) else None
    source, tokens, position = "name" if "tokens" in counts else None, counts.get("tokens"), counts.get("position")
    point = TrainingPoint(step, tokens, groups.get("stage"), groups.get("run"), source, position)
    return point if (point.step or 0) < STEP_LIMIT and all(n < TOKEN_LIMIT for n in counts.values()) else None


def run_sort_key(run: str | None) -> tuple[int, int, str]:
    """Return the sort key of a run: the unnamed run first, then runs that are numbers in order, then others by name."""
    if run is None:
        return (0, 0, "")
    return (1, int(run), run) if run.isdecimal() else (2, 0, run)


def is_ignored_name(name: str) -> bool:
    """Return True if `name` is never a checkpoint: main, refs/*, pr/N, v1.0, a commit."""
    return _IGNORED.fullmatch(name) is not None


def has_enough_parsed_names(names: Iterable[str]) -> bool:
    """Return True if enough of a repo's names parse for the generic rule to apply to the repo."""
    candidates = [name for name in names if not is_ignored_name(name)]
    parsed = sum(parse_name(name) is not None for name in candidates)
    return parsed >= MIN_PARSED_NAMES and parsed >= MIN_PARSED_SHARE * len(candidates)
