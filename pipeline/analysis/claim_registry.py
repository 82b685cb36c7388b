"""Registry of published claims: the entries of `published_claims.yaml`, checked on loading."""

import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Annotated, Any, NamedTuple

import yaml
from pydantic import BeforeValidator, Field

from pipeline.strict_model import StrictModel

REGISTRY = files("pipeline.analysis") / "published_claims.yaml"
LIMIT_PATTERN = re.compile(r"(?P<column>\w+) (?P<sign>[<>]|!=) (?P<bound>-?\d+(?:\.\d+)?|[a-z]\w*)")


class Limit(NamedTuple):
    """Comparison of an effect with a bound, such as `height > 0.05`.

    In the fields `supports` and `contradicts` of a claim, a limit holds if the whole interval of the effect lies on the
    stated side of the bound. In the field `premise`, it holds if the value of the effect does (`holds`).
    """

    column: str
    """Column of the effect. The limits of its interval are in the columns with the endings `_low` and `_high`."""
    sign: str
    """Side of the bound: `>` is above it, `<` is below it, and `!=` is either side."""
    bound: float | str
    """The bound as a number, or the name of the column that holds it."""

    @classmethod
    def parse(cls, text: str) -> "Limit":
        """Parse a limit such as `height > 0.05`; raise ValueError if the text has another form."""
        match = LIMIT_PATTERN.fullmatch(text)
        if match is None:
            raise ValueError(f"{text!r} is not a limit; write a column, >, < or !=, and a bound: height > 0.05")
        bound = match["bound"]
        return cls(match["column"], match["sign"], bound if bound[0].isalpha() else float(bound))

    def __str__(self) -> str:
        bound = self.bound if isinstance(self.bound, str) else f"{self.bound:g}"
        return f"{self.column} {self.sign} {bound}"

    def holds(self, row: Mapping[str, Any]) -> bool:
        """Return True if the value of the effect is on the stated side of the bound, whatever its error.

        False if the value or the bound is null.
        """
        value, bound = row[self.column], self.bound_of(row)
        if value is None or bound is None:
            return False
        return {">": value > bound, "<": value < bound}.get(self.sign, value != bound)

    def bound_of(self, row: Mapping[str, Any]) -> float | None:
        """Return the bound as a number, read from the row if the bound is a column; None if it is null there."""
        return row[self.bound] if isinstance(self.bound, str) else self.bound


def _parse_limits(texts: Any) -> tuple[Limit, ...]:
    return tuple(text if isinstance(text, Limit) else Limit.parse(str(text)) for text in texts)


def _parse_premise(text: Any) -> Limit | None:
    return text if text is None or isinstance(text, Limit) else Limit.parse(str(text))


Limits = Annotated[tuple[Limit, ...], BeforeValidator(_parse_limits)]


class PublishedClaim(StrictModel):
    """A claim of a paper, and how a finding tests it; `published_claims.yaml` explains the fields."""

    name: str
    paper: str
    reference: str
    sentence: str
    kinds: tuple[str, ...]
    models: str = "*"
    min_params: int = 0
    quantity: str
    finding: str
    needs: str
    rows: dict[str, Any] = Field(default_factory=dict)
    column: str | None = None
    premise: Annotated[Limit | None, BeforeValidator(_parse_premise)] = None
    unmet: str = ""
    verdicts: tuple[str, ...] = ()
    supports: Limits = ()
    contradicts: Limits = ()
    p: str | None = None
    effect: str | None = None
    level: float = 0.95
    bound: str
    refuted: str

    @property
    def short_reference(self) -> str:
        """First author and year, such as `Razzhigaev 2024`."""
        return re.sub(r"(\d{4})(\w*)$", r" \1\2", self.paper.capitalize())

    @property
    def compares_models(self) -> bool:
        """True if the claim is about the models of a lake together, not about one history."""
        return not self.kinds

    @property
    def effect_column(self) -> str:
        """Column of the effect that is shown: `effect`, or else the column of the first limit of `supports`."""
        return self.effect or self.supports[0].column

    @property
    def rule(self) -> str:
        """Description of the test of the claim, in one line."""
        premise = f"tested if `{self.premise}`; " if self.premise else ""
        if self.p:
            return f"{premise}`{self.column}` of the finding with its p (`{self.p}`)"
        word = f" and verdict {' or '.join(f'`{each}`' for each in self.verdicts)}" if self.verdicts else ""
        supports = " and ".join(f"`{limit}`" for limit in self.supports)
        contradicts = " or ".join(f"`{limit}`" for limit in self.contradicts)
        return f"{premise}supports: {supports}{word}; contradicts: {contradicts}"

    def describe(self) -> dict[str, Any]:
        """Return all fields but the name as a dictionary for JSON, in which each limit is a text."""
        texts: dict[str, Any] = {
            name: [str(limit) for limit in getattr(self, name)] for name in ("supports", "contradicts")
        }
        texts["premise"] = str(self.premise) if self.premise else None
        return {**self.model_dump(exclude={"name"}), **texts}


@cache
def load_claims() -> dict[str, PublishedClaim]:
    """Load the claims of the registry, by name."""
    content = yaml.safe_load(REGISTRY.read_text())
    papers = content["papers"]
    return {
        name: PublishedClaim(name=name, reference=papers[fields["paper"]], **fields)
        for name, fields in content["claims"].items()
    }
