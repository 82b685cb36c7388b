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
from pipeline.catalog.revision_names import TrainingPoint, is_ignored_name, parse_name
from pipeline.errors import UsageError
from pipeline.strict_model import format_first_error, suggest

FAMILIES_YAML = Path(__file__).with_name("families.yaml")


class GenericFamily(Family):
    """The rule for repos that the table does not know: names are read by `names.parse`."""

    @property
    def is_generic(self) -> bool:
        return True

    def parse_name(self, repo: str, name: str) -> TrainingPoint | None:
        return parse_name(name)

    def sort_key(self, place: TrainingPoint) -> tuple:
        return place.sort_key

    def skips(self, name: str) -> bool:
        return is_ignored_name(name)


GENERIC_FAMILY = GenericFamily(
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
def load_families() -> tuple[Family, ...]:
    """Every family of the table, in its order."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    entries = yaml.load(FAMILIES_YAML.read_text(), loader)
    return tuple(parse_family(name, fields) for name, fields in entries.items())


def parse_family(name: str, fields: Mapping[str, Any]) -> Family:
    """The family that one entry of the table describes."""
    try:
        return Family.model_validate({"name": name, **fields})
    except ValidationError as error:
        raise UsageError(
            f"family {name}", format_first_error(error), f"Correct its entry in {FAMILIES_YAML.name}"
        ) from error


def get_family(name: str) -> Family:
    """The family called `name`."""
    known = {one.name: one for one in load_families()}
    if name not in known:
        raise UsageError(
            f"family {name!r}", f"no such family{suggest(name, list(known))}", "List them with shapelake catalog"
        )
    return known[name]


def find_family(repo: str) -> Family:
    """The family that claims `repo`, else GENERIC."""
    return next((one for one in load_families() if one.claims(repo)), GENERIC_FAMILY)
