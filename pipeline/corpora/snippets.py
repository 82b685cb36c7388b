"""Snippets of so many characters of a text: the published protocol's way to take tokens."""

import codecs
import random
from typing import NamedTuple

import numpy as np

from pipeline.corpora.special_tokens import TokenizerProtocol, get_special_tokens
from pipeline.errors import CorpusError
from pipeline.spec import SnippetRecipe

BLOCK = 1 << 16


class Snippet(NamedTuple):
    """Token ids, int32 `[tokens]`, and which of them are special tokens put around the text, bool."""

    ids: np.ndarray
    special_mask: np.ndarray

    def truncate(self, tokens: int | None) -> "Snippet":
        return Snippet(self.ids[:tokens], self.special_mask[:tokens])


def read_snippets(data: np.ndarray, recipe: SnippetRecipe, tokenizer: TokenizerProtocol, name: str) -> list[Snippet]:
    """The snippets, ragged, cut to `max_tokens`, special tokens counted.

    Snippet i is characters i * snippet_chars up to (i + 1) * snippet_chars, i from 0 on or, seeded, as drawn without
    replacement by `random.Random(0)`, in the order drawn. Source: LLM-Microscope's notebook (`random.seed(0)`,
    snippets at multiples of 512 characters); its exact draw is not published.

    Raises:
        CorpusError: too few characters, with both numbers, or a snippet that has no token.
    """
    firsts = _firsts(data)
    wanted, there = recipe.snippets * recipe.snippet_chars, int(firsts[-1])
    if wanted > there:
        raise CorpusError(
            f"{recipe.snippets} snippets of {recipe.snippet_chars} characters from corpus {name}",
            f"{wanted} characters are needed, {there} are there",
            "Use a larger corpus or a smaller recipe",
        )
    numbers = range(there // recipe.snippet_chars)
    if recipe.order == "seeded":
        numbers = random.Random(0).sample(numbers, recipe.snippets)
    texts = (_characters(data, firsts, i * recipe.snippet_chars, recipe.snippet_chars) for i in numbers)
    return [_tokens(text, recipe, tokenizer, name) for text, _ in zip(texts, range(recipe.snippets), strict=False)]


def _tokens(text: str, recipe: SnippetRecipe, tokenizer: TokenizerProtocol, name: str) -> Snippet:
    if recipe.bos == "tokenizer":
        ids, special = (np.array(part) for part in tokenizer.encode_with_special_tokens(text))
    else:
        special_tokens = get_special_tokens(recipe, tokenizer)
        ids = special_tokens.wrap(np.array(tokenizer.encode(text)))
        special = special_tokens.special_mask(len(ids))
    if not len(ids):
        raise CorpusError(
            f"a snippet of corpus {name}", f"no token in {text[:20]!r}...", "Use a corpus without long runs of blanks"
        )
    return Snippet(ids.astype(np.int32), special.astype(bool)).truncate(recipe.max_tokens)


def _firsts(data: np.ndarray) -> np.ndarray:
    """Characters in front of each block of BLOCK bytes, and in all."""
    counts = [int(np.count_nonzero(_leads(data[at : at + BLOCK]))) for at in range(0, len(data), BLOCK)]
    return np.cumsum([0, *counts])


def _leads(data: np.ndarray) -> np.ndarray:
    """Which bytes begin a character."""
    return data & 0xC0 != 0x80


def _characters(data: np.ndarray, firsts: np.ndarray, start: int, count: int) -> str:
    """Characters `start` to `start + count`, all there."""
    block = int(np.searchsorted(firsts, start, side="right")) - 1
    leads = np.flatnonzero(_leads(data[block * BLOCK : (block + 1) * BLOCK]))
    at = block * BLOCK + int(leads[start - firsts[block]])
    return codecs.utf_8_decode(data[at : at + 4 * count].tobytes(), "strict", False)[0][:count]
