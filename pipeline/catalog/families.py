"""The table of published families, and the rule for repos that are not in it.

The table is `families.yaml`: one family, one entry. What is irregular about a family is a field of its entry.
"""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from pipeline.catalog.family import Example, Family
from pipeline.catalog.revision_names import Place, no_point, parse
from pipeline.errors import UsageError
from pipeline.strict_model import first_problem, suggest

TABLE = Path(__file__).with_name("families.yaml")


class Generic(Family):
    """The rule for repos that the table does not know: names are read by `names.parse`."""

    @property
    def is_generic(self) -> bool:
        return True

    def place(self, repo: str, name: str) -> Place | None:
        return parse(name)

    def order(self, place: Place) -> tuple:
        return place.order

    def skips(self, name: str) -> bool:
        return no_point(name)


GENERIC = Generic(
    name="generic",
    ids=("*/*",),
    where="branches-and-tags",
    kind="by-config",
    tiers={"*": "large"},
    source="the repo's own names",
    examples={"step1000": Example(step=1000)},
)
"""Its tier is the most careful one: how large an unknown model is, only its files say."""


@cache
def families() -> tuple[Family, ...]:
    """Every family of the table, in its order."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    entries = yaml.load(TABLE.read_text(), loader)
    return tuple(entry(name, fields) for name, fields in entries.items())


def entry(name: str, fields: Mapping[str, Any]) -> Family:
    """The family that one entry of the table describes."""
    try:
        return Family.model_validate({"name": name, **fields})
    except ValidationError as error:
        raise UsageError(f"family {name}", first_problem(error), f"Correct its entry in {TABLE.name}") from error


def family(name: str) -> Family:
    """The family called `name`."""
    known = {one.name: one for one in families()}
    if name not in known:
        raise UsageError(
            f"family {name!r}", f"no such family{suggest(name, list(known))}", "List them with shapelake catalog"
        )
    return known[name]


def family_of(repo: str) -> Family:
    """The family that claims `repo`, else GENERIC."""
    return next((one for one in families() if one.claims(repo)), GENERIC)
