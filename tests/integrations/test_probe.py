"""Readings of a probe equal `describe` on the same states, and reading does not affect training."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.errors import UsageError
from pipeline.geometry import describe
from pipeline.integrations import Probe
from tests.support import tiny_checkpoints as tiny


@pytest.fixture(scope="module")
def model():
    return tiny.model(0)


@pytest.fixture(scope="module")
def ids():
    return torch.randint(tiny.VOCABULARY, (8, 32), generator=torch.Generator().manual_seed(0))


def test_all_layers_are_read_as_describe_reads_their_states(model, ids):
    reading = Probe(ids, points=10_000).read(model)
    states = model(input_ids=ids, output_hidden_states=True).hidden_states
    assert [layer.layer for layer in reading.layers] == [0, 1, 2]
    for layer in reading.layers[1:2]:  # the last one in `hidden_states` is after the final norm
        hidden = states[layer.layer].detach()
        whole, later = describe(hidden.flatten(0, 1)), describe(hidden[:, 1:].flatten(0, 1))
        assert layer.anisotropy == pytest.approx(whole["anisotropy"], rel=1e-6)
        assert layer.id_twonn == pytest.approx(later["id_twonn"], rel=1e-6)
        assert layer.id_mle == pytest.approx(later["id_mle"], rel=1e-6)


def test_the_loss_is_the_models_own(model, ids):
    assert Probe(ids).read(model).loss == pytest.approx(model(input_ids=ids, labels=ids).loss.item(), rel=1e-5)


def test_reading_changes_nothing_of_the_training(model, ids):
    model.train()
    model(input_ids=ids, labels=ids).loss.backward()
    before = [weight.grad.clone() for weight in model.parameters()]
    state, hooks = torch.get_rng_state(), n_hooks(model)
    probe = Probe(ids, points=150, layers=[2])
    assert probe.read(model) == probe.read(model)
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, w.grad) for a, w in zip(before, model.parameters(), strict=True))
    assert n_hooks(model) == hooks


def n_hooks(model):
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def test_only_the_layers_asked_for_are_measured(model, ids):
    assert [layer.layer for layer in Probe(ids, layers=[2]).read(model).layers] == [2]


def test_states_that_are_not_finite_have_no_shape(ids):
    broken = tiny.model(1)
    with torch.no_grad():
        broken.gpt_neox.layers[1].mlp.dense_4h_to_h.bias[3] = math.nan
    reading = Probe(ids).read(broken)
    assert reading.loss is None
    assert [layer.id_mle is None for layer in reading.layers] == [False, False, True]


def test_too_few_tokens_are_refused_in_two_lines(ids):
    with pytest.raises(UsageError, match="at least 100 tokens") as error:
        Probe(ids[:2])
    assert str(error.value).count("\n") == 1


@pytest.mark.parametrize("form", [np.asarray, lambda ids: ids.tolist(), lambda ids: ids.float(), lambda ids: ids.int()])
def test_a_probe_takes_ids_in_any_form(form: Callable[[Tensor], Any]) -> None:
    ids = torch.arange(256).reshape(4, 64)
    assert torch.equal(Probe(form(ids))._ids, ids)


@pytest.mark.parametrize(
    ("ids", "found"),
    [
        (torch.arange(256), "contexts, tokens"),
        (torch.zeros(2, 2, 2), "contexts, tokens"),
        (torch.full((4, 64), 0.5), "0.5 is not an integer"),
        ([[1, 2], [3]], "cannot be read as numbers"),
        (["text"], "cannot be read as numbers"),
    ],
)
def test_a_probe_refuses_other_ids(ids: Any, found: str) -> None:
    with pytest.raises(UsageError, match=found):
        Probe(ids)
