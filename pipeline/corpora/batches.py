"""Contexts: the token ids of a cell and which positions are sampled; and their batches, in an order of their own."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

import numpy as np

RaggedArrays = tuple[np.ndarray, ...]


@dataclass(frozen=True, eq=False)
class Batch:
    """Consecutive contexts of equal length, and where in `hidden.reshape(-1, dim)` their sampled rows are.

    All arrays are int64 but for the two of bool; rows are in order of context, then position.
    """

    ids: np.ndarray
    """`[contexts, tokens]`."""
    special_mask: np.ndarray
    """`[contexts, tokens]`, bool."""
    context_group: np.ndarray
    """`[contexts]`."""
    moment_rows: np.ndarray
    """`[moments]`, context in the batch * tokens + position, of the rows that enter the moments."""
    moment_group: np.ndarray
    moment_first: np.ndarray
    """Which of them open their context, bool."""
    kept_rows: np.ndarray
    """`[kept]`, likewise, of the rows of the k-NN cloud."""
    kept_group: np.ndarray
    kept_context: np.ndarray
    """Number of the context among all contexts of the cell."""
    kept_token: np.ndarray
    """Token id."""


@dataclass(frozen=True, eq=False)
class Contexts:
    """What every checkpoint with one tokenizer is asked to read, ordered by group."""

    ids: RaggedArrays
    """Per context its token ids, int32 `[tokens]`; of one length but for snippets."""
    context_group: np.ndarray
    """`[contexts]`, int64, nondecreasing from 0, none empty."""
    kept_positions: RaggedArrays
    """Per context the sorted positions kept for the k-NN cloud, int64."""
    moment_positions: RaggedArrays
    """Per context the sorted positions that enter the moments, int64."""
    special_masks: tuple[np.ndarray, ...]
    """Per context which of its tokens are special ones put around the text, bool `[tokens]`."""
    text_sha256: str | None
    """Of the text they are taken from: of enwik8 the cleaned one; null for random-uniform."""
    flags: tuple[str, ...] = ()
    """`shorter_context`, `smaller_corpus`, `tokenizer_round_trip`, where they hold."""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def n_groups(self) -> int:
        return int(self.context_group[-1]) + 1

    @property
    def context_tokens(self) -> int:
        """Length of a context, of the longest where they differ."""
        return max(len(ids) for ids in self.ids)

    @property
    def n_tokens(self) -> int:
        return sum(len(ids) for ids in self.ids)

    @property
    def n_kept(self) -> int:
        return sum(len(kept) for kept in self.kept_positions)

    @property
    def moment_rows_per_group(self) -> list[int]:
        rows = np.bincount(self.context_group, weights=[len(moments) for moments in self.moment_positions])
        return rows.astype(int).tolist()

    @cached_property
    def digest(self) -> str:
        """sha256 of the lengths and ids, little-endian int32."""
        state = hashlib.sha256(np.array([len(ids) for ids in self.ids], "<i4").tobytes())
        for ids in self.ids:
            state.update(ids.astype("<i4").tobytes())
        return state.hexdigest()

    def iter_batches(self, batch_tokens: int) -> Iterator[Batch]:
        """All contexts in order, at most `batch_tokens` tokens at once but at least one context.

        The rows of all batches, one after the other, do not depend on `batch_tokens`.
        """
        for length, run in groupby(range(len(self)), key=lambda i: len(self.ids[i])):
            numbers = list(run)
            size = max(batch_tokens // length, 1)
            for at in range(0, len(numbers), size):
                yield self._batch(slice(numbers[at], numbers[at : at + size][-1] + 1))

    def _batch(self, part: slice) -> Batch:
        ids, group = np.stack(self.ids[part]).astype(np.int64), self.context_group[part]
        moment_context, moment_position = _flat(self.moment_positions[part])
        kept_context, kept_position = _flat(self.kept_positions[part])
        return Batch(
            ids=ids,
            special_mask=np.stack(self.special_masks[part]),
            context_group=group,
            moment_rows=moment_context * ids.shape[1] + moment_position,
            moment_group=group[moment_context],
            moment_first=moment_position == 0,
            kept_rows=kept_context * ids.shape[1] + kept_position,
            kept_group=group[kept_context],
            kept_context=kept_context + part.start,
            kept_token=ids[kept_context, kept_position],
        )


def _flat(positions: RaggedArrays) -> tuple[np.ndarray, np.ndarray]:
    """Context in the batch and position of every row."""
    counts = [len(of_context) for of_context in positions]
    return np.repeat(np.arange(len(positions)), counts), np.concatenate(positions)
