"""What sampling asks of a tokenizer, the special tokens around a context, and the generators of every choice."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from pipeline.errors import UsageError
from pipeline.spec import Recipe


class TokenizerProtocol(Protocol):
    """Text to token ids, no special token unless it is asked for."""

    def encode(self, text: str) -> list[int]: ...

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[int] | None]:
        """Ids, and for each the index one past its last character; None where the tokenizer cannot tell."""
        ...

    def encode_with_special_tokens(self, text: str) -> tuple[list[int], list[bool]]:
        """Ids with the special tokens that the tokenizer itself puts around a text, and which of them these are."""
        ...

    def text_token_ids(self, vocab_size: int) -> np.ndarray:
        """Ids that stand for text: known, below `vocab_size`, not special, not added, not empty."""
        ...

    @property
    def bos_id(self) -> int | None: ...

    @property
    def round_trips(self) -> bool: ...


@dataclass(frozen=True)
class SpecialTokens:
    """Special token ids in front of a context and behind it; they count as part of its length."""

    front: list[int]
    back: list[int]

    def __len__(self) -> int:
        return len(self.front) + len(self.back)

    def special_mask(self, tokens: int) -> np.ndarray:
        """Which positions of a context of so many tokens it takes, bool."""
        position = np.arange(tokens)
        return (position < len(self.front)) | (position >= tokens - len(self.back))

    def wrap(self, body: np.ndarray) -> np.ndarray:
        """int32 ids `[..., tokens]` with the frame added to the last axis."""
        row = (*body.shape[:-1], 1)
        front, back = np.tile(np.array(self.front, np.int32), row), np.tile(np.array(self.back, np.int32), row)
        return np.concatenate([front, body.astype(np.int32), back], axis=-1)


def get_special_tokens(recipe: Recipe, tokenizer: TokenizerProtocol) -> SpecialTokens:
    """The special tokens of `recipe.bos`: none, the opening one, or whatever the tokenizer adds by itself.

    Raises:
        UsageError: the tokenizer has no opening token, or changes a text beyond adding tokens around it.
    """
    if recipe.bos == "none":
        return SpecialTokens([], [])
    if recipe.bos == "first":
        if tokenizer.bos_id is None:
            raise UsageError(f"bos: first in {recipe.label}", "the tokenizer has no such token", "Use bos: none")
        return SpecialTokens([tokenizer.bos_id], [])
    bare, (whole, _) = tokenizer.encode("a"), tokenizer.encode_with_special_tokens("a")
    for at in range(len(whole) - len(bare) + 1):
        if whole[at : at + len(bare)] == bare:
            return SpecialTokens(whole[:at], whole[at + len(bare) :])
    raise UsageError(
        f"bos: tokenizer in {recipe.label}", f"the tokenizer makes {whole} of {bare}", "Use bos: none or bos: first"
    )


def make_generator(seed: int, purpose: str) -> np.random.Generator:
    """PCG64 with a stream of its own for each purpose, so that no choice depends on how often another was made."""
    return np.random.Generator(np.random.PCG64([seed, *purpose.encode()]))
