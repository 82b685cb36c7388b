"""Disjoint windows of whole tokens, spread over a text; only they are read and tokenised."""

import codecs
from math import ceil
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.corpora.special_tokens import TokenizerProtocol, make_generator
from pipeline.errors import CorpusError
from pipeline.progress import Progress

SPREADS = (1.0, 0.99, 0.95, 0.8, 0.5, 0.0)
"""Shares of the text that the windows aim at, tried in turn where it is tight; 0 packs them from the head on."""


class Window(NamedTuple):
    """Bytes `start` to `end` of a text and their token ids, fewer than asked only where the text ends."""

    start: int
    end: int
    ids: list[int]


class ContextLayout(NamedTuple):
    """Contexts of equal length that a recipe asks for."""

    n_contexts: int
    context_tokens: int
    groups: int
    seed: int
    allow_smaller: bool


def memmap_text(path: Path) -> np.ndarray:
    """A UTF-8 file as uint8 `[bytes]`, not read until used; a character cut at its end is left out."""
    if path.stat().st_size == 0:  # which cannot be mapped
        return np.zeros(0, np.uint8)
    data = np.memmap(path, np.uint8, "r")
    return data[: len(data) - _partial_character_bytes(data[-4:].tolist())]


def _partial_character_bytes(tail: list[int]) -> int:
    """Bytes of an unfinished character at the end of UTF-8."""
    for back, byte in enumerate(reversed(tail), start=1):
        if byte < 0x80:
            return 0
        if byte >= 0xC0:  # the first of two, three or four
            return back if back < 2 + (byte >= 0xE0) + (byte >= 0xF0) else 0
    return 0


class WindowReader:
    """Reads windows of `tokens` tokens from a text; asks for as many bytes as the windows before needed."""

    def __init__(self, data: np.ndarray, tokenizer: TokenizerProtocol, tokens: int) -> None:
        self.data, self.tokenizer, self.tokens = data, tokenizer, tokens
        self._bytes_per_token = 4.0

    def read_window(self, start: int) -> Window:
        """The window that begins with the first whole character at or after byte `start`."""
        while start < len(self.data) and self.data[start] & 0xC0 == 0x80:
            start += 1
        size = ceil(1.25 * self._bytes_per_token * self.tokens) + 16
        while True:
            text, used = codecs.utf_8_decode(self.data[start : start + size].tobytes(), "strict", False)
            ids, ends = self.tokenizer.encode_with_offsets(text)
            # One token more than asked: the last one may be a piece of a word that goes on.
            if len(ids) > self.tokens or start + size >= len(self.data):
                break
            size *= 2
        self._bytes_per_token = used / max(len(ids), 1)
        # Without offsets the whole piece counts as used: wasteful, but never overlapping.
        if ends is not None and len(ids) >= self.tokens:
            used = len(text[: max(ends[: self.tokens])].encode())
        return Window(start, start + used, ids[: self.tokens])


def read_windows(data: np.ndarray, tokenizer: TokenizerProtocol, shape: ContextLayout) -> list[Window]:
    """Disjoint windows in order, one begun in each n-th of the text at a seeded place.

    Where the text is too tight for that they aim at ever smaller shares of it (SPREADS). If even packing them without
    gaps does not do, what fits is returned, the last window maybe shorter.
    """
    n = shape.n_contexts
    targets = (np.arange(n) + make_generator(shape.seed, "offsets").random(n)) * (len(data) / n)
    packed: list[Window] = []
    for spread in SPREADS:
        packed = _place_windows(
            WindowReader(data, tokenizer, shape.context_tokens), (targets * spread).astype(np.int64).tolist()
        )
        if len(packed) == n and len(packed[-1].ids) == shape.context_tokens:
            break
    return packed


def _place_windows(reader: WindowReader, targets: list[int]) -> list[Window]:
    """Each window at its target or behind the one before, up to the first that the text cuts short."""
    found: list[Window] = []
    with Progress("Tokenising", len(targets), "contexts") as progress:
        for target in targets:
            found.append(reader.read_window(max(target, found[-1].end if found else 0)))
            if len(found[-1].ids) < reader.tokens:
                break
            progress.advance(1)
    return found


def read_window_ids(data: np.ndarray, tokenizer: TokenizerProtocol, shape: ContextLayout, name: str) -> np.ndarray:
    """Token ids `[contexts, tokens]`, int32; with `allow_smaller` of as many windows as there are, equal per group.

    Raises:
        CorpusError: the text is too small, with the tokens needed and the tokens there.
    """
    n, tokens, groups, _, allow_smaller = shape
    found = read_windows(data, tokenizer, shape)
    whole = [window.ids for window in found if len(window.ids) == tokens]
    fitting = len(whole) // groups * groups
    if fitting == 0 or (fitting < n and not allow_smaller):
        there = sum(len(window.ids) for window in found)
        smaller = "" if allow_smaller else ", or allow_smaller: true to take what there is"
        raise CorpusError(
            f"{n} contexts of {tokens} tokens from corpus {name}",
            f"{n * tokens} tokens are needed, {there} are there",
            f"Use a larger corpus or a smaller recipe{smaller}",
        )
    return np.array(whole[:fitting], np.int32)
