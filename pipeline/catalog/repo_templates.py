"""Templates of repo ids: {placeholders} with a list of values each, and * for what cannot be listed."""

import re
from collections.abc import Mapping
from itertools import product
from string import Formatter

Values = Mapping[str, tuple[str, ...]]
"""What each placeholder may stand for."""


def placeholders(template: str) -> set[str]:
    """Names of the placeholders in `template`."""
    return {field for _, field, _, _ in Formatter().parse(template) if field}


def expand_template(template: str, values: Values) -> list[str]:
    """`template` with every combination of its placeholders' values."""
    names = [name for name in values if name in placeholders(template)]
    combinations = product(*(values[name] for name in names))
    return [template.format(**dict(zip(names, combination, strict=True))) for combination in combinations]


def compile_template(template: str, values: Values) -> re.Pattern[str]:
    """Regex of the ids that `template` stands for, with a group per placeholder."""
    parts = []
    for literal, name, _, _ in Formatter().parse(template):
        parts.append(re.escape(literal).replace(r"\*", "[^/]*"))
        if name:
            parts.append(f"(?P<{name}>{'|'.join(map(re.escape, values[name]))})")
    return re.compile("".join(parts))
