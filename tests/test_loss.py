"""Loss: special tokens around a context never count, and batches change nothing."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pipeline.measurement.loss import Loss
from pipeline.recipe import built_in_recipe

MASK = 999
RECIPE = built_in_recipe("quick@1")


class Encoder:
    """Layer stack whose loss of a masked token is the token's id; it records the masks."""

    loss_kind = "masked"

    def __init__(self) -> None:
        self.masks: list[np.ndarray] = []

    def masked_token_losses(self, ids, masked, mask_id):
        assert mask_id == MASK
        self.masks += list(masked.numpy())
        return ids[masked].float()


def contexts(n: int, tokens: int, front: int, back: int) -> tuple[torch.Tensor, np.ndarray]:
    """Ids from 100 for text; special positions hold -1, which no sum of losses may contain."""
    special = np.zeros((n, tokens), bool)
    special[:, :front] = special[:, tokens - back :] = True
    ids = torch.arange(100, 100 + n * tokens).view(n, tokens).masked_fill(torch.from_numpy(special), -1)
    return ids, special


def masked(ids: torch.Tensor, special: np.ndarray, at_once: int) -> tuple[Encoder, dict]:
    encoder = Encoder()
    loss = Loss(encoder, RECIPE, MASK, 2)  # type: ignore[arg-type]
    group = np.arange(len(ids)) * 2 // len(ids)
    for at in range(0, len(ids), at_once):
        part = slice(at, at + at_once)
        loss.add(ids[part], None, special[part], group[part])
    return encoder, loss.columns()


@pytest.mark.parametrize(("front", "back"), [(0, 0), (1, 0), (1, 1), (3, 2)])
def test_special_tokens_are_never_masked_and_the_share_is_of_the_text(front: int, back: int) -> None:
    ids, special = contexts(400, 25, front, back)
    encoder, columns = masked(ids, special, 400)
    masks = np.stack(encoder.masks)
    assert not (masks & special).any()
    n_text = 25 - front - back
    assert (masks.sum(1) == round(0.15 * n_text)).all()
    assert columns["loss_tokens"] == masks.sum()
    share = masks.mean(0)[~special[0]]  # se of each: at most 0.018
    assert np.abs(share - round(0.15 * n_text) / n_text).max() < 0.07


def test_batches_change_neither_mask_nor_loss() -> None:
    ids, special = contexts(30, 20, 1, 1)
    whole, columns = masked(ids, special, 30)
    for at_once in (1, 7):
        parts, same = masked(ids, special, at_once)
        assert np.array_equal(whole.masks, parts.masks)
        assert same == columns


def test_a_context_of_special_tokens_alone_counts_nothing() -> None:
    ids, special = contexts(4, 2, 1, 1)
    special[:2, 1] = False
    _, columns = masked(ids, special, 1)
    assert columns["loss_tokens"] == 2


@pytest.mark.parametrize(("front", "back"), [(0, 0), (1, 0), (1, 1), (3, 2)])
def test_causal_loss_is_the_mean_over_predicted_text(front: int, back: int) -> None:
    """Loss of text tokens from the second on; the spread of the groups gives the error."""
    ids, special = contexts(6, 12, front, back)
    loss = Loss(SimpleNamespace(loss_kind="causal"), RECIPE, None, 2)  # type: ignore[arg-type]
    loss.add(ids, ids[:, 1:].float(), special, np.array([0, 0, 1, 1, 1, 1]))
    counted = [[int(i) for i in row[1:] if i >= 0] for row in ids]
    means = [np.mean(counted[:2]), np.mean(counted[2:])]
    assert loss.columns() == {
        "loss": pytest.approx(np.mean(np.concatenate(counted))),
        "loss_se": pytest.approx(abs(means[0] - means[1]) / 2),  # sd of two over root two
        "loss_groups": pytest.approx(means),
        "loss_tokens": 6 * (12 - max(front, 1) - back),
    }
    assert math.isfinite(loss.columns()["loss"])
