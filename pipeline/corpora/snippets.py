"""Snippets: pieces of a text with a fixed number of characters, as in the published protocol of LLM-Microscope."""

import codecs
import random
from typing import NamedTuple

import numpy as np

from pipeline.corpora.special_tokens import TokenizerProtocol, get_special_tokens
from pipeline.errors import CorpusError
from pipeline.spec import SnippetRecipe

BLOCK = 1 << 16


class Snippet(NamedTuple):
    """Tokens of one snippet."""

    ids: np.ndarray
    """Token ids, int32 `[tokens]`."""
    special_mask: np.ndarray
    """bool `[tokens]`: True at the special tokens that were added around the text."""

    def truncate(self, tokens: int | None) -> "Snippet":
        return Snippet(self.ids[:tokens], self.special_mask[:tokens])


def read_snippets(data: np.ndarray, recipe: SnippetRecipe, tokenizer: TokenizerProtocol, name: str) -> list[Snippet]:
    """Return `recipe.snippets` tokenised snippets, each cut to `recipe.max_tokens` tokens including special tokens.

    Snippet i has the characters from i * snippet_chars to (i + 1) * snippet_chars of the text. With `order:
    sequential`, the snippets 0, 1, 2 ... are returned. With `order: seeded`, `random.Random(0)` draws the indices i
    without replacement.

    Args:
        data: text as UTF-8 bytes, uint8 `[bytes]`.
        name: name of the corpus, for error messages.

    Source: LLM-Microscope's notebook, which calls `random.seed(0)` once and then, several times,
        `random.sample(list(range(len(text) // 512)), 128)`. The seeded order is that of the first of these calls; later
        cells of the notebook use the third.

    Raises:
        CorpusError: the text has too few characters (the message states both numbers), or a snippet has no tokens.
    """
    counts = [int(np.count_nonzero(_is_lead_byte(data[at : at + BLOCK]))) for at in range(0, len(data), BLOCK)]
    block_starts = np.cumsum([0, *counts])  # number of characters before each block of BLOCK bytes, and in the text
    needed, available = recipe.snippets * recipe.snippet_chars, int(block_starts[-1])
    if needed > available:
        asked = f"{recipe.snippets} snippets of {recipe.snippet_chars} characters from corpus {name}"
        do = f"Use a corpus with at least {needed} characters, or a recipe with fewer snippets"
        raise CorpusError(asked, f"{needed} characters are needed, {available} are available", do)
    numbers = range(available // recipe.snippet_chars)
    if recipe.order == "seeded":
        numbers = random.Random(0).sample(numbers, recipe.snippets)
    texts = (_characters(data, block_starts, i * recipe.snippet_chars, recipe.snippet_chars) for i in numbers)
    return [_tokens(text, recipe, tokenizer, name) for text, _ in zip(texts, range(recipe.snippets), strict=False)]


def _tokens(text: str, recipe: SnippetRecipe, tokenizer: TokenizerProtocol, name: str) -> Snippet:
    if recipe.bos == "tokenizer":
        ids, special = (np.array(part) for part in tokenizer.encode_with_special_tokens(text))
    else:
        special_tokens = get_special_tokens(recipe, tokenizer)
        ids = special_tokens.wrap(np.array(tokenizer.encode(text)))
        special = special_tokens.special_mask(len(ids))
    if not len(ids):
        found = f"no token in {text[:20]!r}..."
        raise CorpusError(f"a snippet of corpus {name}", found, "Use a corpus without long runs of spaces")
    return Snippet(ids.astype(np.int32), special.astype(bool)).truncate(recipe.max_tokens)


def _is_lead_byte(data: np.ndarray) -> np.ndarray:
    return data & 0xC0 != 0x80


def _characters(data: np.ndarray, block_starts: np.ndarray, start: int, count: int) -> str:
    """Return characters `start` to `start + count`, which must exist."""
    block = int(np.searchsorted(block_starts, start, side="right")) - 1
    lead_bytes = np.flatnonzero(_is_lead_byte(data[block * BLOCK : (block + 1) * BLOCK]))
    at = block * BLOCK + int(lead_bytes[start - block_starts[block]])
    return codecs.utf_8_decode(data[at : at + 4 * count].tobytes(), "strict", False)[0][:count]
