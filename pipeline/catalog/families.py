"""Catalogue of published families (`families.yaml`, one entry per family), and the generic rule for all other repos."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import yaml
from pydantic import ValidationError

from pipeline.catalog.family import Example, Family
from pipeline.catalog.revision_names import TrainingPoint, is_ignored_name, parse_name
from pipeline.errors import UsageError
from pipeline.strict_model import format_first_error, suggest

FAMILIES_YAML = Path(__file__).with_name("families.yaml")


class GenericFamily(Family):
    """Rule for repos that the catalogue does not list. It parses names with `revision_names.parse_name`."""

    is_generic: ClassVar[bool] = True

    def parse_name(self, repo: str, name: str) -> TrainingPoint | None:
        return parse_name(name)

    def sort_key(self, point: TrainingPoint) -> tuple:
        return point.sort_key

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
"""Rule for repos that the catalogue does not list. The size of their models is unknown, so the tier is the largest."""


@cache
def load_families() -> tuple[Family, ...]:
    """Return all families in the order of the catalogue."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    entries = yaml.load(FAMILIES_YAML.read_text(), loader)
    return tuple(parse_family(name, fields) for name, fields in entries.items())


def parse_family(name: str, fields: Mapping[str, Any]) -> Family:
    """Validate one entry of the catalogue.

    Raises:
        UsageError: a field is unknown, missing or invalid.
    """
    try:
        return Family.model_validate({"name": name, **fields})
    except ValidationError as error:
        do = f"Fix this field of entry {name} in {FAMILIES_YAML.name}"
        raise UsageError(f"family {name}", format_first_error(error), do) from error


def get_family(name: str) -> Family:
    """Return the family called `name`; raise UsageError if the catalogue has no such family."""
    known = {family.name: family for family in load_families()}
    if name not in known:
        found = f"no such family{suggest(name, list(known))}"
        raise UsageError(f"family {name!r}", found, "List them with shapelake catalog")
    return known[name]


def find_family(repo: str) -> Family:
    """Return the family that `repo` belongs to, or GENERIC_FAMILY if the catalogue does not list the repo."""
    return next((family for family in load_families() if family.claims(repo)), GENERIC_FAMILY)
