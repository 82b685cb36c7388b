"""Model loss on the measured tokens, with its standard error over groups of contexts."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.corpora import Batch
from pipeline.geometry import HostCopy
from pipeline.model import LayerStack
from pipeline.spec import Recipe

MASK_RNG_STREAM = 1  # makes the mask independent of all other random draws with the recipe's seed


class Loss:
    """Mean loss in nats per token: next-token loss, masked-token loss at the recipe's mask share, or none.

    `LayerStack.loss_kind` tells which of the three it is. Special tokens around a context are neither masked nor
    counted as predicted. Sums are exact (math.fsum), so the batch size does not change the result. The standard error
    is sd / sqrt(G) over the means of G groups.

    Source: cross entropy of the model's own head; masked as in Devlin et al. 2019, but every masked position shows
        the mask token.
    Bias: higher than the loss on long contexts, because the first tokens of each context are predicted from few
        tokens; losses of different tokenizers are not comparable.
    """

    def __init__(self, stack: LayerStack, recipe: Recipe, mask_id: int | None, n_groups: int) -> None:
        self._stack = stack
        self._mask_id = mask_id
        self._share = recipe.mask_share
        self._masks = np.random.Generator(np.random.PCG64([recipe.seed, MASK_RNG_STREAM]))
        self._sums: list[list[float]] = [[] for _ in range(n_groups)]
        self._counts = [0] * n_groups

    def add(self, ids: Tensor, causal: Tensor | None, special: np.ndarray, group: np.ndarray) -> None:
        """Add the losses of a batch.

        Args:
            ids: token ids, `[contexts, tokens]`.
            causal: next-token losses of the forward pass; None for an encoder, which reads the batch again with masks.
            special: bool `[contexts, tokens]`, True at special tokens.
            group: error group of each context.
        """
        if causal is not None:
            for losses, is_text, context_group in zip(
                causal.cpu().numpy(), ~special[:, 1:], group.tolist(), strict=True
            ):
                self._count(context_group, losses[is_text].tolist())
        elif self._stack.loss_kind == "masked" and self._mask_id is not None:
            masked = np.stack([self._mask(~context_special) for context_special in special])
            losses = self._stack.masked_token_losses(ids, torch.from_numpy(masked).to(ids.device), self._mask_id)
            assert losses is not None
            for part, context_group in zip(losses.split(masked.sum(axis=1).tolist()), group.tolist(), strict=True):
                self._count(context_group, part.tolist())

    def columns(self) -> dict[str, Any]:
        """Return the columns `loss`, `loss_se`, `loss_groups` and `loss_tokens`.

        All are null if there is no loss or if the loss of a group is not finite.
        """
        means = [
            math.fsum(sums) / count if count else None for sums, count in zip(self._sums, self._counts, strict=True)
        ]
        found = [mean for mean in means if mean is not None]
        if not found or not np.isfinite(found).all():
            return dict.fromkeys(("loss", "loss_se", "loss_groups", "loss_tokens"))
        error = float(np.std(found, ddof=1)) / math.sqrt(len(found)) if len(found) > 1 else None
        n_tokens = sum(self._counts)
        mean = math.fsum(total for sums in self._sums for total in sums) / n_tokens
        return {"loss": mean, "loss_se": error, "loss_groups": means, "loss_tokens": n_tokens}

    @property
    def flags(self) -> tuple[str, ...]:
        """Flag that explains a null loss; empty if there is a loss, or if the stack has none (see its own flags)."""
        if self._stack.loss_kind == "masked" and self._mask_id is None:
            return ("no_mask_token",)
        if self._stack.loss_kind is not None and not any(self._counts):
            return ("nothing_to_predict",)
        return ("nonfinite_loss",) if any(self._counts) and self.columns()["loss"] is None else ()

    def _count(self, group: int, losses: list[float]) -> None:
        self._sums[group].append(math.fsum(losses))
        self._counts[group] += len(losses)

    def _mask(self, is_text: np.ndarray) -> np.ndarray:
        """Return a mask of text positions, drawn without replacement: the recipe's share of them, but at least one."""
        mask, positions = np.zeros_like(is_text), np.flatnonzero(is_text)
        chosen = self._masks.permutation(len(positions))[: max(round(self._share * len(positions)), 1)]
        mask[positions[chosen]] = True
        return mask


class DelayedLoss:
    """Adds the losses of a batch to a `Loss` while the next batch runs, so that the device never waits for the host."""

    def __init__(self, loss: Loss | None) -> None:
        self._loss = loss
        self._last: tuple[Tensor, HostCopy | None, Batch] | None = None

    def add(self, ids: Tensor, causal: Tensor | None, batch: Batch) -> None:
        self.finish()
        self._last = ids, None if causal is None else HostCopy(causal), batch

    def finish(self) -> None:
        """Add the losses of the last batch."""
        if self._last is not None and self._loss is not None:
            ids, causal, batch = self._last
            self._loss.add(ids, None if causal is None else causal.wait(), batch.special_mask, batch.error_group)
        self._last = None
