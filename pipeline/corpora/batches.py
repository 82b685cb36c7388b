"""Token ids and sampled positions of a cell, and their batches in a deterministic order."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

import numpy as np

RaggedArrays = tuple[np.ndarray, ...]
ERROR_BLOCKS = 5
"""Number of blocks of contexts from which a recipe with one group computes its standard errors."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Consecutive contexts of equal length, with the rows of `hidden.reshape(-1, dim)` to sample.

    Arrays are int64 unless marked bool. Rows are ordered by context, then by position.
    """

    ids: np.ndarray
    """`[contexts, tokens]`."""
    special_mask: np.ndarray
    """`[contexts, tokens]`, bool: True for special tokens added around the text."""
    error_group: np.ndarray
    """`[contexts]`, group of each context for the standard errors of moments and loss."""
    moment_rows: np.ndarray
    """`[moments]`, rows that enter the moments: context index in the batch * tokens + position."""
    moment_group: np.ndarray
    moment_first: np.ndarray
    """`[moments]`, bool: True for the first position of a context."""
    kept_rows: np.ndarray
    """`[kept]`, rows of the k-NN point cloud, numbered as `moment_rows`."""
    kept_group: np.ndarray
    kept_context: np.ndarray
    """`[kept]`, index of the context among all contexts of the cell."""
    kept_token: np.ndarray
    """`[kept]`, token ids."""
    compared_rows: np.ndarray
    """`[compared]`, rows of the tokens of similarity records, numbered as `moment_rows`."""


@dataclass(frozen=True, eq=False)
class Contexts:
    """Model input of a cell, ordered by group; identical for all checkpoints with the same tokenizer."""

    ids: RaggedArrays
    """Token ids per context, int32 `[tokens]`; equal lengths except for snippets."""
    context_group: np.ndarray
    """Group of each context, int64 `[contexts]`, nondecreasing from 0; no group is empty."""
    kept_positions: RaggedArrays
    """Sorted positions per context of the k-NN point cloud, int64."""
    moment_positions: RaggedArrays
    """Sorted positions per context that enter the moments, int64."""
    special_masks: tuple[np.ndarray, ...]
    """Mask per context of the special tokens added around the text, bool `[tokens]`."""
    text_sha256: str | None
    """Checksum of the source text, after cleaning for enwik8; None for random-uniform."""
    flags: tuple[str, ...] = ()
    """Applicable flags among `shorter_context`, `smaller_corpus`, `tokenizer_round_trip`."""
    compared_positions: RaggedArrays = ()
    """Sorted positions per context of the tokens of similarity records, int64; empty if no records are wanted."""

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

        Equal to `context_group`; if that has one group (`authors@1`), blocks of consecutive contexts are the groups.
        """
        if self.n_groups > 1:
            return self.context_group
        return np.arange(len(self)) * min(ERROR_BLOCKS, len(self)) // len(self)

    @property
    def n_error_groups(self) -> int:
        return int(self.error_group[-1]) + 1

    @property
    def moment_rows_per_group(self) -> list[int]:
        """Number of rows of each error group that enter the moments."""
        rows = np.bincount(self.error_group, weights=[len(moments) for moments in self.moment_positions])
        return rows.astype(int).tolist()

    @cached_property
    def digest(self) -> str:
        """Checksum (sha256) of the lengths and ids as little-endian int32."""
        state = hashlib.sha256(np.array([len(ids) for ids in self.ids], "<i4").tobytes())
        for ids in self.ids:
            state.update(ids.astype("<i4").tobytes())
        return state.hexdigest()

    def iter_batches(self, batch_tokens: int) -> Iterator[Batch]:
        """Yield all contexts in order, in batches of at most `batch_tokens` tokens and at least one context.

        The concatenated rows of all batches do not depend on `batch_tokens`.
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
    """Return the context index and the position of every row."""
    if not positions:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    counts = [len(per_context) for per_context in positions]
    return np.repeat(np.arange(len(positions)), counts), np.concatenate(positions)
