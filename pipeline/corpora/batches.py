"""Contexts of one cell (token ids and sampled positions), and their division into batches in a fixed order."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

import numpy as np

RaggedArrays = tuple[np.ndarray, ...]
ERROR_BLOCKS = 5
"""Number of blocks of consecutive contexts over which standard errors are computed if the recipe has one group."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Consecutive contexts of equal length, and the rows to sample from their hidden states.

    A row is an index into `hidden.reshape(-1, dim)`, where `hidden` is `[contexts, tokens, dim]`: the index of the
    context in the batch * tokens + the position. Rows are in ascending order. Arrays are int64 unless marked bool.
    """

    ids: np.ndarray
    """`[contexts, tokens]`, token ids."""
    special_mask: np.ndarray
    """`[contexts, tokens]`, bool: True at the special tokens that were added around the text."""
    error_group: np.ndarray
    """`[contexts]`, group of each context for the standard errors of moments and loss."""
    moment_rows: np.ndarray
    """`[moments]`, rows that enter the moments."""
    moment_group: np.ndarray
    """`[moments]`, `error_group` of the context of each of these rows."""
    moment_first: np.ndarray
    """`[moments]`, bool: True for the rows at the first position of their context."""
    kept_rows: np.ndarray
    """`[kept]`, rows that enter the k-NN point cloud."""
    kept_group: np.ndarray
    """`[kept]`, group of the context of each of these rows (`Contexts.context_group`)."""
    kept_context: np.ndarray
    """`[kept]`, index of the context of each of these rows among all contexts of the cell."""
    kept_token: np.ndarray
    """`[kept]`, token id of each of these rows."""
    compared_rows: np.ndarray
    """`[compared]`, rows of the tokens for which similarity records are made."""


@dataclass(frozen=True, eq=False)
class Contexts:
    """Model input of a cell, ordered by group; identical for all checkpoints with the same tokenizer."""

    ids: RaggedArrays
    """One array per context: its token ids, int32 `[tokens]`. All contexts have equal length, except for snippets."""
    context_group: np.ndarray
    """Group of each context, int64 `[contexts]`, nondecreasing from 0; no group is empty."""
    kept_positions: RaggedArrays
    """One int64 array per context: ascending positions of the tokens that form the k-NN point cloud."""
    moment_positions: RaggedArrays
    """One int64 array per context: ascending positions of the tokens that enter the moments."""
    special_masks: tuple[np.ndarray, ...]
    """One array per context, bool `[tokens]`: True at the special tokens that were added around the text."""
    text_sha256: str | None
    """Checksum of the source text, after cleaning for enwik8; None for random-uniform."""
    flags: tuple[str, ...] = ()
    """Those of the flags `shorter_context`, `smaller_corpus` and `tokenizer_round_trip` that apply."""
    compared_positions: RaggedArrays = ()
    """One int64 array per context: ascending positions of the tokens for which similarity records are made.

    The tuple is empty if no records are wanted."""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def n_groups(self) -> int:
        return int(self.context_group[-1]) + 1

    @property
    def context_tokens(self) -> int:
        """Length of the longest context."""
        return max(len(ids) for ids in self.ids)

    @property
    def n_tokens(self) -> int:
        return sum(len(ids) for ids in self.ids)

    @property
    def n_kept(self) -> int:
        return sum(len(kept) for kept in self.kept_positions)

    @property
    def n_compared(self) -> int:
        return sum(len(compared) for compared in self.compared_positions)

    @cached_property
    def error_group(self) -> np.ndarray:
        """Group of each context for the standard errors of moments and loss, int64 `[contexts]`, nondecreasing.

        These groups are those of `context_group` if it has two or more. If it has one (`authors@1`), the contexts are
        divided into ERROR_BLOCKS blocks of consecutive contexts (fewer if there are fewer contexts), which are the
        groups.
        """
        if self.n_groups > 1:
            return self.context_group
        return np.arange(len(self)) * min(ERROR_BLOCKS, len(self)) // len(self)

    @property
    def n_error_groups(self) -> int:
        return int(self.error_group[-1]) + 1

    @property
    def moment_rows_per_group(self) -> list[int]:
        """For each error group in order, the number of its rows that enter the moments."""
        rows = np.bincount(self.error_group, weights=[len(moments) for moments in self.moment_positions])
        return rows.astype(int).tolist()

    @cached_property
    def digest(self) -> str:
        """Checksum (sha256) of the lengths of all contexts and of all token ids, as little-endian int32."""
        state = hashlib.sha256(np.array([len(ids) for ids in self.ids], "<i4").tobytes())
        for ids in self.ids:
            state.update(ids.astype("<i4").tobytes())
        return state.hexdigest()

    def iter_batches(self, batch_tokens: int) -> Iterator[Batch]:
        """Yield all contexts in order, in batches of contexts of equal length.

        A batch has at most `batch_tokens` tokens, but at least one context. For every `batch_tokens`, the same tokens
        are sampled in the same order.
        """
        for length, run in groupby(range(len(self)), key=lambda i: len(self.ids[i])):
            numbers = list(run)
            size = max(batch_tokens // length, 1)
            for at in range(0, len(numbers), size):
                yield self._batch(slice(numbers[at], numbers[at : at + size][-1] + 1))

    def _batch(self, part: slice) -> Batch:
        ids, group = np.stack(self.ids[part]).astype(np.int64), self.context_group[part]
        errors = self.error_group[part]
        moment_context, moment_position = _flat(self.moment_positions[part])
        kept_context, kept_position = _flat(self.kept_positions[part])
        moments = (moment_context * ids.shape[1] + moment_position, errors[moment_context], moment_position == 0)
        kept_rows, kept_token = kept_context * ids.shape[1] + kept_position, ids[kept_context, kept_position]
        kept = (kept_rows, group[kept_context], kept_context + part.start, kept_token)
        compared_context, compared_position = _flat(self.compared_positions[part])
        compared = compared_context * ids.shape[1] + compared_position
        return Batch(ids, np.stack(self.special_masks[part]), errors, *moments, *kept, compared)


def _flat(positions: RaggedArrays) -> tuple[np.ndarray, np.ndarray]:
    """Return two int64 arrays with one item per position in all contexts: index of the context, and position."""
    if not positions:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    counts = [len(per_context) for per_context in positions]
    return np.repeat(np.arange(len(positions)), counts), np.concatenate(positions)
