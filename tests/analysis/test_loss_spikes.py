"""Spikes of the loss at checkpoints: power on published grids, false alarms on ten kinds of null histories."""

import numpy as np
import pytest

from pipeline.analysis.loss_spikes import find_spikes

GRIDS = {
    "pythia": np.array([0, *(2**i for i in range(10)), *range(1000, 144_000, 1000)]),
    "log2": np.array([0, *(2**i for i in range(18))]),
    "28 equal": 1000 * np.arange(1, 29),
    "12 equal": 1000 * np.arange(1, 13),
    "5": np.array([0, 1000, 5000, 20_000, 100_000]),
}
WARM_UP = 1000


def descent(steps):
    """From ln(50,000) to 2 nats by a power law."""
    return 1.8 + 9.0 / (1 + (steps / 200.0) ** 0.7)


def null_histories(steps, sigma, random):
    """Histories without a spike: smooth, and with noise of size `sigma` of eight kinds."""
    n, base, noise = len(steps), descent(steps), random.standard_normal(len(steps))
    share = np.linspace(0, 1, n)
    serial = np.zeros(n)
    for i in range(1, n):
        serial[i] = 0.8 * serial[i - 1] + 0.6 * noise[i]
    hump = np.exp(-((np.log(steps + 1) - np.log(30)) ** 2))
    return {
        "smooth": base,
        "equal noise": base + sigma * noise,
        "noise that grows": base + sigma * (0.3 + 1.7 * share) * noise,
        "noise that shrinks": base + sigma * (2 - 1.7 * share) * noise,
        "heavy-tailed noise (t, 3 df)": base + sigma * random.standard_t(3, n) / np.sqrt(3),
        "AR(1) noise": base + sigma * serial,
        "drop of the learning rate": base - (steps > steps[-1] / 3) + sigma * noise,
        "plateau and sudden drop": np.where(steps < steps[-1] / 20, 7.0, 3.5) + sigma * noise,
        "constant": 3 + sigma * noise,
        "hump of the warm-up": base + hump + sigma * noise,
    }


@pytest.mark.parametrize("grid", ["pythia", "log2"])
def test_three_nats_are_found_at_every_step_past_warm_up(grid):
    """The rule over 128 rows needed 13.7 nats at step 80,000 of Pythia's grid."""
    steps, random = GRIDS[grid], np.random.default_rng(0)
    for i in np.flatnonzero(steps >= WARM_UP):
        loss = descent(steps) + 0.01 * random.standard_normal(len(steps))
        loss[i] += 3
        assert i in find_spikes(steps, loss), steps[i]


def test_a_spike_of_two_checkpoints_is_found():
    steps, random = GRIDS["pythia"], np.random.default_rng(0)
    loss = descent(steps) + 0.01 * random.standard_normal(len(steps))
    loss[90:92] += 3
    assert find_spikes(steps, loss)[0] == 90


def test_a_spike_below_a_tenth_of_a_nat_is_none():
    steps = GRIDS["pythia"]
    loss = descent(steps)
    loss[90] += 0.09
    assert find_spikes(steps, loss) == []


def test_short_histories_have_no_spikes():
    assert find_spikes([], []) == find_spikes([1, 2, 3, 4], [1.0, 9.0, 1.0, 9.0]) == []


@pytest.mark.parametrize("sigma", [0.01, 0.1])
@pytest.mark.parametrize("grid", GRIDS)
def test_false_alarms_are_at_most_5_percent_per_history(grid, sigma):
    """False alarms in 60 histories of each kind are at most 5 % plus two binomial standard errors (5.6 %)."""
    steps, random, alarms = GRIDS[grid], np.random.default_rng(0), {}
    histories = 20 if grid == "pythia" else 60
    for _ in range(histories):
        for kind, loss in null_histories(steps, sigma, random).items():
            alarms.setdefault(kind, []).append(bool(find_spikes(steps, loss)))
    rates = {kind: float(np.mean(found)) for kind, found in alarms.items()}
    print(f"{grid}, noise {sigma}: {rates}")
    assert max(rates.values()) <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / histories)
