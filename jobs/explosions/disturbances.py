"""Disturbances of a run: six that can make its loss explode, and four harmless ones that must not raise an alarm."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

STEPS = 288
EARLIEST, LATEST = 160, 192
"""A disturbance starts at a step from EARLIEST to LATEST - 1."""


def _same(step: int, value: float) -> float:
    return value


class Disturbance(NamedTuple):
    """Changes to a run from step `start` on; everything else is as in a calm run."""

    start: int
    rate: Callable[[int], float] = lambda since: 1.0
    """Factor of the learning rate, as a function of the steps since the start."""
    batch: Callable[[int, Tensor], Tensor] = lambda since, batch: batch
    """Replacement of a training batch, as a function of the steps since the start."""
    begin: Callable[[Optimizer], None] = lambda optimizer: None
    """Change to the optimizer, applied once at the start."""
    after: Callable[[Optimizer], None] = lambda optimizer: None
    """Change to the optimizer, applied after every step from the start on."""


def disturbance(kind: str, seed: int) -> Disturbance:
    """Return a disturbance of this kind; the seed determines its start and strength."""
    generator = torch.Generator().manual_seed(seed)
    start = int(torch.randint(EARLIEST, LATEST, (), generator=generator))
    return KINDS[kind](start, float(torch.rand((), generator=generator)))


def _rate_ramp(start: int, strength: float) -> Disturbance:
    """The learning rate grows by 8 to 20 % a step."""
    growth = 1.08 + 0.12 * strength
    return Disturbance(start, rate=lambda since: growth**since)


def _rate_climb(start: int, strength: float) -> Disturbance:
    """The learning rate grows linearly, every step by 1.5 to 4 times its initial value."""
    slope = 1.5 + 2.5 * strength
    return Disturbance(start, rate=lambda since: 1 + slope * since)


def _restart(start: int, strength: float) -> Disturbance:
    """Adam's moments are cleared and training continues without warm-up, at 4 to 7 times the learning rate."""
    factor = 4 + 3 * strength
    return Disturbance(start, rate=lambda since: factor, begin=lambda optimizer: optimizer.state.clear())


def _short_memory(start: int, strength: float) -> Disturbance:
    """Adam's beta2 falls to between 0.1 and 0.4, its beta1 rises to 0.95 to 0.99, and the learning rate triples."""
    betas = 0.95 + 0.04 * strength, 0.4 - 0.3 * strength
    return Disturbance(start, rate=lambda since: 3.0, begin=lambda optimizer: _set(optimizer, betas=betas, eps=1e-12))


def _bad_batches(start: int, strength: float) -> Disturbance:
    """Half to all contexts of every batch are random bytes, at four times the learning rate."""
    share = (1 + strength) / 2
    generator = torch.Generator().manual_seed(int(strength * 2**24))  # different noise in every run

    def replace_contexts(since: int, batch: Tensor) -> Tensor:
        bad = round(share * len(batch))
        noise = torch.randint(256, batch.shape, generator=generator)
        return torch.cat([noise[:bad], batch[bad:]])

    return Disturbance(start, rate=lambda since: 4.0, batch=replace_contexts)


def _low_precision(start: int, strength: float) -> Disturbance:
    """Adam's second moment is rounded to float16, where small values become 0; its epsilon is between 1e-8 and 1e-7."""
    epsilon = 1e-8 * 10**strength

    def rounded(optimizer: Optimizer) -> None:
        for state in optimizer.state.values():
            state["exp_avg_sq"].copy_(state["exp_avg_sq"].half())

    return Disturbance(start, begin=lambda optimizer: _set(optimizer, eps=epsilon), after=rounded)


def _set(optimizer: Optimizer, **fields: object) -> None:
    for group in optimizer.param_groups:
        group.update(fields)


def _constant(start: int, strength: float) -> Disturbance:
    return Disturbance(start)


def _cosine(start: int, strength: float) -> Disturbance:
    """The learning rate decays to a tenth by the end."""
    left = STEPS - start
    return Disturbance(start, rate=lambda since: 0.55 + 0.45 * float(torch.cos(torch.tensor(torch.pi * since / left))))


def _drop(start: int, strength: float) -> Disturbance:
    """The learning rate drops in a single step to between 0.1 and 0.5 of its value."""
    return Disturbance(start, rate=lambda since: 0.1 * 5**strength)


def _bump(start: int, strength: float) -> Disturbance:
    """The learning rate rises by 20 to 50 %, which is too little for an explosion."""
    return Disturbance(start, rate=lambda since: 1.2 + 0.3 * strength)


INDUCED = {
    "rate-ramp": _rate_ramp,
    "rate-climb": _rate_climb,
    "adam-restart": _restart,
    "adam-short-memory": _short_memory,
    "bad-batches": _bad_batches,
    "low-precision": _low_precision,
}
CALM = {"constant": _constant, "cosine": _cosine, "drop": _drop, "bump": _bump}
KINDS = INDUCED | CALM
