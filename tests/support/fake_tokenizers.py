"""Minimal tokenizers that record the texts they encode."""

import re
import zlib

import numpy as np

from pipeline.recipe import ContextRecipe


class Characters:
    """Tokenizer with one token per character, whose id is the code point; <s> is 1 and </s> is 2."""

    bos_id: int | None = 1
    round_trips = True

    def __init__(self, offsets: bool = True) -> None:
        self.offsets = offsets
        self.asked: list[str] = []

    def encode(self, text: str) -> list[int]:
        self.asked.append(text)
        return [ord(c) for c in text]

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[int] | None]:
        return self.encode(text), list(range(1, len(text) + 1)) if self.offsets else None

    def encode_with_special_tokens(self, text: str) -> tuple[list[int], list[bool]]:
        ids = self.encode(text)
        return [1, *ids, 2], [True, *[False] * len(ids), True]

    def text_token_ids(self, vocab_size: int) -> np.ndarray:
        return np.arange(10, min(vocab_size, 910))


class Words(Characters):
    """Tokenizer with one token per word of up to eight letters including a preceding space, and per extra space."""

    def encode(self, text: str) -> list[int]:
        return self.encode_with_offsets(text)[0]

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[int] | None]:
        self.asked.append(text)
        words = list(re.finditer(r" ?\w{1,8}|\s|[^\w\s]", text))
        ids = [10 + zlib.crc32(word[0].encode()) % 900 for word in words]
        return ids, [word.end() for word in words] if self.offsets else None


def recipe(**fields: object) -> ContextRecipe:
    """A small context recipe."""
    small: dict[str, object] = {"name": "small", "version": 1, "contexts": 8, "groups": 4, "context_tokens": 16}
    return ContextRecipe.model_validate({**small, "kept_per_context": 4, **fields})
