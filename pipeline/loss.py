"""The model's own loss on the tokens it was measured on, with its standard error over groups of contexts."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.model import LayerStack
from pipeline.spec import Recipe

MASK_RNG_STREAM = 1  # of the recipe's seed, so that the mask never shares its numbers with other choices


class Loss:
    """Nats per token: of the next token, or of tokens masked at the recipe's share, or none.

    Special tokens put around a context are neither masked nor counted as predicted. Sums are exact (math.fsum), so
    that no batch size shows in them. Unit: nats/token. Error: sd / sqrt(G) over groups.

    Source: cross entropy of the model's own head; masked as in Devlin et al. 2019, but every masked position shows
        the mask token.
    Bias: higher than a loss with long contexts, since the first tokens of each are predicted from little; losses of
        different tokenizers do not compare.
    """

    def __init__(self, profile: LayerStack, recipe: Recipe, mask_id: int | None, n_groups: int) -> None:
        self._profile = profile
        self._mask_id = mask_id
        self._share = recipe.mask_share
        self._masks = np.random.Generator(np.random.PCG64([recipe.seed, MASK_RNG_STREAM]))
        self._sums: list[list[float]] = [[] for _ in range(n_groups)]
        self._counts = [0] * n_groups

    def add(self, ids: Tensor, causal: Tensor | None, special: np.ndarray, group: np.ndarray) -> None:
        """Count a batch: `ids` and the losses of its forward pass; an encoder reads the batch again, masked."""
        if causal is not None:
            for losses, of_text, of_group in zip(causal.cpu().numpy(), ~special[:, 1:], group, strict=True):
                self._count(of_group, losses[of_text].tolist())
        elif self._profile.loss_kind == "masked" and self._mask_id is not None:
            masked = np.stack([self._mask(~of_context) for of_context in special])
            losses = self._profile.masked_token_losses(ids, torch.from_numpy(masked).to(ids.device), self._mask_id)
            assert losses is not None
            for part, of_group in zip(losses.split(masked.sum(axis=1).tolist()), group, strict=True):
                self._count(of_group, part.tolist())

    def columns(self) -> dict[str, Any]:
        """`loss`, `loss_se`, `loss_tokens`; null where the model has no loss of its own or it is not finite."""
        means = [math.fsum(sums) / count for sums, count in zip(self._sums, self._counts, strict=True) if count]
        if not means or not np.isfinite(means).all():
            return {"loss": None, "loss_se": None, "loss_tokens": None}
        error = float(np.std(means, ddof=1)) / math.sqrt(len(means)) if len(means) > 1 else None
        return {"loss": math.fsum(means) / len(means), "loss_se": error, "loss_tokens": sum(self._counts)}

    @property
    def flags(self) -> tuple[str, ...]:
        """Why there is no loss, where there is none."""
        if self._profile.loss_kind == "masked" and self._mask_id is None:
            return ("no_mask_token",)
        if self._profile.loss_kind is not None and not any(self._counts):
            return ("nothing_to_predict",)
        return ("nonfinite_loss",) if any(self._counts) and self.columns()["loss"] is None else ()

    def _count(self, group: int, losses: list[float]) -> None:
        self._sums[group].append(math.fsum(losses))
        self._counts[group] += len(losses)

    def _mask(self, of_text: np.ndarray) -> np.ndarray:
        """The recipe's share of the positions `of_text`, at least one, drawn without replacement."""
        mask, places = np.zeros_like(of_text), np.flatnonzero(of_text)
        chosen = self._masks.permutation(len(places))[: max(round(self._share * len(places)), 1)]
        mask[places[chosen]] = True
        return mask
