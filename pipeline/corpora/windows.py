"""Disjoint windows of whole tokens, spread over a text; only the bytes of the windows are read and tokenised."""

import codecs
from math import ceil
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.corpora.special_tokens import TokenizerProtocol, make_generator
from pipeline.errors import CorpusError
from pipeline.progress import Progress

SPREADS = (1.0, 0.99, 0.95, 0.8, 0.5, 0.0)
"""Fractions of the text over which the windows are spread. They are tried in order until all windows fit; at 0, each
window begins where the one before it ends."""


class Window(NamedTuple):
    """Bytes `start` to `end` of a text and their token ids. A window at the end of the text may have too few tokens."""

    start: int
    end: int
    ids: list[int]


class ContextLayout(NamedTuple):
    """Number and length of the contexts of a recipe, which all have equal length, and how they are drawn."""

    n_contexts: int
    context_tokens: int
    groups: int
    seed: int
    allow_smaller: bool
    """If True, a text that is too small gives fewer contexts instead of an error."""


def memmap_text(path: Path) -> np.ndarray:
    """Return a UTF-8 file as memory-mapped uint8 `[bytes]`, without an incomplete character at its end."""
    if path.stat().st_size == 0:  # an empty file cannot be mapped
        return np.zeros(0, np.uint8)
    data = np.memmap(path, np.uint8, "r")
    return data[: len(data) - _partial_character_bytes(data[-4:].tolist())]


def _partial_character_bytes(tail: list[int]) -> int:
    """Return how many bytes at the end of UTF-8 bytes belong to an incomplete character; 0 if it is complete."""
    for back, byte in enumerate(reversed(tail), start=1):
        if byte < 0x80:
            return 0
        if byte >= 0xC0:  # lead byte of two, three or four bytes
            return back if back < 2 + (byte >= 0xE0) + (byte >= 0xF0) else 0
    return 0


class WindowReader:
    """Reader of windows of `tokens` tokens; the preceding window tells it how many bytes a token takes."""

    def __init__(self, data: np.ndarray, tokenizer: TokenizerProtocol, tokens: int) -> None:
        self.data, self.tokenizer, self.tokens = data, tokenizer, tokens
        self._bytes_per_token = 4.0

    def read_window(self, start: int) -> Window:
        """Return the window that starts with the first whole character at or after byte `start`."""
        while start < len(self.data) and self.data[start] & 0xC0 == 0x80:
            start += 1
        size = ceil(1.25 * self._bytes_per_token * self.tokens) + 16
        while True:
            text, used = codecs.utf_8_decode(self.data[start : start + size].tobytes(), "strict", False)
            ids, ends = self.tokenizer.encode_with_offsets(text)
            # One token more than wanted must be read, because more text could make the last token longer.
            if len(ids) > self.tokens or start + size >= len(self.data):
                break
            size *= 2
        self._bytes_per_token = used / max(len(ids), 1)
        # Without offsets all decoded bytes count as used: this wastes text, but windows never overlap.
        if ends is not None and len(ids) >= self.tokens:
            used = len(text[: max(ends[: self.tokens])].encode())
        return Window(start, start + used, ids[: self.tokens])


def read_windows(data: np.ndarray, tokenizer: TokenizerProtocol, layout: ContextLayout) -> list[Window]:
    """Return `layout.n_contexts` disjoint windows, in the order of the text.

    The text is divided into as many equal parts, and each window starts at a random offset (from `layout.seed`) in its
    part. If the last windows do not fit into the text, all windows are spread over smaller fractions of it (SPREADS).
    If they do not fit even without gaps, the windows that fit are returned, and the last one may have too few tokens.
    """
    n = layout.n_contexts
    targets = (np.arange(n) + make_generator(layout.seed, "offsets").random(n)) * (len(data) / n)
    windows: list[Window] = []
    for spread in SPREADS:
        reader = WindowReader(data, tokenizer, layout.context_tokens)
        windows = _place_windows(reader, (targets * spread).astype(np.int64).tolist())
        if len(windows) == n and len(windows[-1].ids) == layout.context_tokens:
            break
    return windows


def _place_windows(reader: WindowReader, targets: list[int]) -> list[Window]:
    """Read a window at each target byte, or after the preceding window if that ends later.

    Reading stops after the first window with too few tokens, which is the last one returned.
    """
    windows: list[Window] = []
    with Progress("Tokenising", len(targets), "contexts") as progress:
        for target in targets:
            windows.append(reader.read_window(max(target, windows[-1].end if windows else 0)))
            if len(windows[-1].ids) < reader.tokens:
                break
            progress.advance(1)
    return windows


def read_window_ids(data: np.ndarray, tokenizer: TokenizerProtocol, layout: ContextLayout, name: str) -> np.ndarray:
    """Return token ids, int32 `[contexts, tokens]`.

    If the text is too small and `layout.allow_smaller` is set, there are fewer contexts, equally many per group.

    Raises:
        CorpusError: the text is too small; the message states the tokens needed and the tokens available.
    """
    n, tokens, groups, _, allow_smaller = layout
    windows = read_windows(data, tokenizer, layout)
    whole = [window.ids for window in windows if len(window.ids) == tokens]
    fitting = len(whole) // groups * groups
    if fitting == 0 or (fitting < n and not allow_smaller):
        available = sum(len(window.ids) for window in windows)
        smaller = "" if allow_smaller else ", or set allow_smaller: true to use the tokens available"
        asked = f"{n} contexts of {tokens} tokens from corpus {name}"
        found = f"{n * tokens} tokens are needed, {available} are available"
        raise CorpusError(asked, found, f"Use a larger corpus or a smaller recipe{smaller}")
    return np.array(whole[:fitting], np.int32)
