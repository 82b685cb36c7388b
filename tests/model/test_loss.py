"""Losses equal those of the model's own class."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pipeline.model import LayerStack, load_model
from pipeline.model import loss as loss_module
from tests.support import tiny_models

Saved = Callable[[str], Path]


def ignore(layer: int, hidden: Tensor) -> None:
    pass


def only(profiles: dict[str, LayerStack]) -> LayerStack:
    (profile,) = profiles.values()
    return profile


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limit chunks to the logits of five tokens, so that every context needs several chunks."""
    monkeypatch.setitem(loss_module.LOGITS_PER_CHUNK, "cpu", 5 * tiny_models.VOCAB)


@pytest.mark.parametrize("name", tiny_models.CAUSAL)
def test_causal_loss(name: str, saved: Saved, ids: Tensor) -> None:
    """The mean over tokens equals the model's loss for `labels=`, including Gemma's soft-capping."""
    model = load_model(saved(name), "float32", "cpu")
    losses = only(model.stacks).forward_and_capture(ids, ignore)
    assert losses is not None
    assert losses.shape == (3, 12)
    with torch.inference_mode():
        want = model.module(ids, labels=ids).loss
    # Measured over all models and 20 seeds: at most 3.1e-7 relative (2.1e-7 on these ids).
    torch.testing.assert_close(losses.mean(), want, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", tiny_models.MASKED)
def test_masked_loss(name: str, saved: Saved, ids: Tensor) -> None:
    """The mean over masked tokens equals the model's loss for masked input with these tokens as labels."""
    model = load_model(saved(name), "float32", "cpu")
    masked = torch.rand(ids.shape, generator=torch.Generator().manual_seed(3)) < 0.3
    masked[1] = False
    losses = only(model.stacks).masked_token_losses(ids, masked, mask_id=4)
    assert losses is not None
    assert losses.shape == (int(masked.sum()),)
    with torch.inference_mode():
        logits = model.module(ids.masked_fill(masked, 4))
        logits = logits.prediction_logits if name == "bert-pretraining" else logits.logits
    want = torch.nn.functional.cross_entropy(logits[masked], ids[masked])
    # Measured over all models and 20 seeds: at most 2.2e-7 relative against both references.
    torch.testing.assert_close(losses.mean(), want, rtol=1e-6, atol=0)
    if name != "bert-pretraining":  # its own loss includes the next-sentence task
        labels = ids.masked_fill(~masked, -100)
        with torch.inference_mode():
            own = model.module(ids.masked_fill(masked, 4), labels=labels).loss
        torch.testing.assert_close(losses.mean(), own, rtol=1e-6, atol=0)


def test_loss_of_each_token(saved: Saved, ids: Tensor) -> None:
    """Row c, column t is the float64 cross entropy of token t + 1 of context c."""
    model = load_model(saved("gpt_neox"), "float32", "cpu")
    losses = model.stack("decoder").forward_and_capture(ids, ignore)
    assert losses is not None
    with torch.inference_mode():
        logits = model.module(ids).logits.double()
    for context, token in ((0, 1), (2, 12)):
        row = logits[context, token - 1]
        want = torch.log(row.exp().sum()) - row[ids[context, token]]
        # Measured: 1.6e-7 on these two tokens; at most 4.3e-7 on 720 tokens, one rounding of a float32 loss of 4.7.
        assert abs(losses[context, token - 1] - want) < 1e-6


@pytest.mark.parametrize("name", ["gpt2", "bert"])
def test_ids_of_any_integer_type(name: str, saved: Saved, ids: Tensor) -> None:
    """int32 ids give results byte-identical to int64 ids."""
    profile = only(load_model(saved(name), "float32", "cpu").stacks)

    def losses(ids: Tensor) -> Tensor | None:
        return (
            profile.forward_and_capture(ids, ignore)
            if name == "gpt2"
            else profile.masked_token_losses(ids, ids > 50, mask_id=4)
        )

    wide, narrow = losses(ids), losses(ids.int())
    assert wide is not None
    assert narrow is not None
    assert torch.equal(wide, narrow)


def test_the_model_is_whole_again_after_a_loss(saved: Saved, ids: Tensor) -> None:
    """The body, patched to replay its output for the head, computes again afterwards."""
    model = load_model(saved("gpt2"), "float32", "cpu")
    with torch.inference_mode():
        before = model.module(ids).logits
        model.stack("decoder").forward_and_capture(ids, ignore)
        assert torch.equal(model.module(ids).logits, before)


@pytest.mark.parametrize("name", ["t5", "bert", "gpt2"])
def test_no_loss_of_the_other_kind(name: str, saved: Saved, ids: Tensor) -> None:
    """A decoder has no masked loss, an encoder no causal loss, an encoder-decoder neither."""
    model = load_model(saved(name), "float32", "cpu")
    for profile in model.stacks.values():
        causal = profile.forward_and_capture(ids, ignore)
        masked = profile.masked_token_losses(ids, ids > 50, mask_id=4)
        assert {"causal": causal is not None, "masked": masked is not None} == {
            "causal": profile.loss_kind == "causal",
            "masked": profile.loss_kind == "masked",
        }
