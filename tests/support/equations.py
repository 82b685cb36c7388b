"""Equations in documents and docstrings: find them, and evaluate a side."""

import re
from collections.abc import Iterator

EQUATION = re.compile(r"(?<![\w.])\d[\d.,e]*(?: [x/+] \d[\d.e]*)+ = \d[\d.e]*\d")


def equations(text: str) -> Iterator[str]:
    yield from (match.group() for match in EQUATION.finditer(" ".join(text.split())))


def value(side: str) -> float:
    """Evaluate `a x b / c + d` from left to right, products before sums."""
    total = 0.0
    for part in side.split(" + "):
        first, *rest = re.split(r" ([x/]) ", part)
        product = float(first.replace(",", ""))
        for sign, factor in zip(rest[::2], rest[1::2], strict=True):
            product = product * float(factor) if sign == "x" else product / float(factor)
        total += product
    return total
