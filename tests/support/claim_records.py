"""Lakes with similarity records in which each claim about similarity holds, fails, or cannot be decided."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.lake import Lake
from tests.support import recorded_clouds as made

Rows = list[dict[str, Any]]
TOKENS, DIM, GROUPS = 128, 24, 5
STEPS = (0, 1, 3, 7, 15)
"""Equally spaced in log2 of the step plus one."""
COURSES = ([0, 0.95, 0.999, 1, 1], [0, 0.6, 0.99, 1, 1], [0, 0.3, 0.9, 0.999, 1], [0, 0.1, 0.3, 0.999, 1])
"""Shares of the final cloud at each step, from a course that ends early to one that ends late."""


def cloud(rng: np.random.Generator, tokens: int = TOKENS) -> np.ndarray:
    return rng.standard_normal((tokens, DIM)) * np.arange(1, DIM + 1) ** -0.7


def moving(rng: np.random.Generator, shares: Sequence[float], tokens: int = TOKENS) -> made.Clouds:
    """States of a block that goes from one cloud to another: the share of the other at each step."""
    first, last = cloud(rng, tokens), cloud(rng, tokens)
    return [np.sqrt(1 - share**2) * first + share * last + 0.02 * cloud(rng, tokens) for share in shares]


def nearing(rng: np.random.Generator, size: float, shares: Sequence[float]) -> made.Clouds:
    """States of a block that is `size` away from its last state, and nears it by these shares."""
    last, away = cloud(rng), cloud(rng)
    return [last + size * (1 - share) * away + 0.005 * cloud(rng) for share in shares]


def settling(lake: Path, blocks: Sequence[made.Clouds], steps: Sequence[int] = STEPS, groups: int = GROUPS) -> Rows:
    """Rows of a history from the states of each block at each step."""
    clouds = {step: [block[i] for block in blocks] for i, step in enumerate(steps)}
    return made.history(lake, "m", clouds, groups=groups)


def turning(angles: Sequence[float], noise: float = 0.1, tokens: int = TOKENS) -> made.Clouds:
    """Blocks that turn from one cloud (angle 0) to an unrelated one (angle 1)."""
    rng = np.random.default_rng(1)
    first, last = cloud(rng, tokens), cloud(rng, tokens)
    turned = [np.cos(np.pi / 2 * a) * first + np.sin(np.pi / 2 * a) * last for a in angles]
    return [each + noise * cloud(rng, tokens) for each in turned]


def scrambled() -> made.Clouds:
    """Blocks of which each keeps little of the one before it."""
    rng = np.random.default_rng(2)
    blocks = [cloud(rng)]
    for _ in range(7):
        blocks.append(0.35 * blocks[-1] + cloud(rng))
    return blocks


def one_cell(lake: Path, clouds: made.Clouds, groups: int = GROUPS) -> Rows:
    return made.add_cell(Lake(lake), "m", 5, clouds, groups=groups)


def two_models(lake: Path, at_peak: float, tokens: int = TOKENS, groups: int = GROUPS) -> Rows:
    """Two models with shared blocks; `at_peak` is the size of the shared part at the peak of dimension."""
    rng = np.random.default_rng(0)
    common, rows = [cloud(rng, tokens) for _ in range(5)], []
    for model in ("a", "b"):
        shares = (1.2, 1.2, at_peak, 1.2, 1.2)
        blocks = [share * each + cloud(rng, tokens) for share, each in zip(shares, common, strict=True)]
        rows += made.add_cell(Lake(lake), model, 5, blocks, [5, 8, 12, 8, 5], groups=groups)
    return rows


def rearrangements(folder: Path) -> dict[str, Rows]:
    clouds = {
        "supports": turning([i / 7 for i in range(8)]),
        "contradicts: one step": turning([0, 0, 0, 0, 1, 1, 1, 1], 0.02),
        "contradicts: scrambled": scrambled(),
        "contradicts: one geometry": turning([0] * 8, 0.02),
    }
    found = {word: one_cell(folder / str(i), each) for i, (word, each) in enumerate(clouds.items())}
    return found | {"undecided": one_cell(folder / "few", turning([0, 0.1, 0.8, 1], tokens=40), 2)}


def blocks_of(courses: Sequence[Sequence[float]]) -> list[made.Clouds]:
    rng = np.random.default_rng(0)
    return [moving(rng, each) for each in courses]


def orders(folder: Path) -> dict[str, Rows]:
    return {
        "supports": settling(folder / "a", blocks_of(COURSES)),
        "contradicts": settling(folder / "b", blocks_of(COURSES[::-1])),
        "undecided": settling(folder / "c", blocks_of([[0, 0.2, 0.4, 0.6, 1]] * 4)),
    }


def peaks(folder: Path) -> dict[str, Rows]:
    return {
        "supports": two_models(folder / "a", 3.0),
        "contradicts": two_models(folder / "b", 0.1),
        "undecided": two_models(folder / "c", 1.3, 40, 2),
    }


EXAMPLES: dict[str, Callable[[Path], dict[str, Rows]]] = {
    "overlap-profile": rearrangements,
    "lower-layers-settle-first": orders,
    "peak-layers-predict-each-other": peaks,
}
"""By claim: lakes by the answer that is right, and the reason after a colon."""
