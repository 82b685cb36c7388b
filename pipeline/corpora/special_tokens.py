"""Tokenizer interface for sampling, special tokens around a context, and seeded random generators."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from pipeline.errors import UsageError
from pipeline.spec import Recipe


class TokenizerProtocol(Protocol):
    """Interface of a tokenizer for sampling; only `encode_with_special_tokens` adds special tokens."""

    def encode(self, text: str) -> list[int]: ...

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[int] | None]:
        """Return the token ids and, for each token, the index in `text` after its last character.

        The second item is None if the tokenizer has no offsets.
        """
        ...

    def encode_with_special_tokens(self, text: str) -> tuple[list[int], list[bool]]:
        """Return the ids including the tokenizer's default special tokens, and a mask that is True at these tokens."""
        ...

    def text_token_ids(self, vocab_size: int) -> np.ndarray:
        """Return the ids of text tokens below `vocab_size`: not special, not added, and not decoded to ''."""
        ...

    @property
    def bos_id(self) -> int | None: ...

    @property
    def round_trips(self) -> bool: ...


@dataclass(frozen=True)
class SpecialTokens:
    """Ids of the special tokens before and after the text of a context; they count towards its length."""

    front: list[int]
    back: list[int]

    def __len__(self) -> int:
        return len(self.front) + len(self.back)

    def special_mask(self, tokens: int) -> np.ndarray:
        """Return a mask, bool `[tokens]`, that is True at the special tokens in a context of `tokens` tokens."""
        position = np.arange(tokens)
        return (position < len(self.front)) | (position >= tokens - len(self.back))

    def wrap(self, body: np.ndarray) -> np.ndarray:
        """Return int32 ids `[..., tokens]`: `body` with the special tokens added along the last axis."""
        row = (*body.shape[:-1], 1)
        front, back = np.tile(np.array(self.front, np.int32), row), np.tile(np.array(self.back, np.int32), row)
        return np.concatenate([front, body.astype(np.int32), back], axis=-1)


def get_special_tokens(recipe: Recipe, tokenizer: TokenizerProtocol) -> SpecialTokens:
    """Return the special tokens that `recipe.bos` asks for: none, the BOS token, or the tokenizer's default ones.

    Raises:
        UsageError: the tokenizer has no BOS token, or adding its default special tokens changes the ids of the text.
    """
    if recipe.bos == "none":
        return SpecialTokens([], [])
    if recipe.bos == "first":
        if tokenizer.bos_id is None:
            raise UsageError(f"bos: first in {recipe.label}", "the tokenizer has no BOS token", "Use bos: none")
        return SpecialTokens([tokenizer.bos_id], [])
    bare, (whole, _) = tokenizer.encode("a"), tokenizer.encode_with_special_tokens("a")
    for at in range(len(whole) - len(bare) + 1):
        if whole[at : at + len(bare)] == bare:
            return SpecialTokens(whole[:at], whole[at + len(bare) :])
    found = f"the tokenizer encodes 'a' as {bare}, but with special tokens as {whole}, which does not contain these ids"
    raise UsageError(f"bos: tokenizer in {recipe.label}", found, "Use bos: none or bos: first")


def make_generator(seed: int, purpose: str) -> np.random.Generator:
    """Return a PCG64 generator seeded by `seed` and `purpose`, so that draws for two purposes are independent."""
    return np.random.Generator(np.random.PCG64([seed, *purpose.encode()]))
