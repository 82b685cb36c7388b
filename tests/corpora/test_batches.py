"""Batches contain every context and every sampled row exactly once, in an order independent of the batch size."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.corpora import Batch, Contexts


def ragged(lengths: list[int], n_groups: int, seed: int) -> Contexts:
    """Return contexts with distinct token ids, and a random half of their positions sampled."""
    choices, ids, at = np.random.default_rng(seed), [], 0
    for length in lengths:
        ids.append(np.arange(at, at + length, dtype=np.int32))
        at += length
    kept, moments = (
        tuple(np.flatnonzero(choices.random(length) < 0.5) for length in lengths),
        tuple(np.flatnonzero(choices.random(length) < 0.5) for length in lengths),
    )
    special = tuple(choices.random(length) < 0.2 for length in lengths)
    return Contexts(tuple(ids), np.arange(len(lengths)) * n_groups // len(lengths), kept, moments, special, None)


def concatenate(batches: list[Batch]) -> dict[str, list[int]]:
    """Concatenate all batches."""
    rows: dict[str, list[int]] = {name: [] for name in ("ids", "special", "group", "kept", "moments")}
    for batch in batches:
        flat = batch.ids.ravel()
        rows["ids"] += flat.tolist()
        rows["special"] += batch.special_mask.ravel().tolist()
        rows["group"] += batch.error_group.tolist()
        rows["kept"] += zip(flat[batch.kept_rows], batch.kept_context, batch.kept_group, batch.kept_token, strict=True)
        rows["moments"] += zip(flat[batch.moment_rows], batch.moment_group, batch.moment_first, strict=True)
    return rows


@given(st.lists(st.integers(1, 5), min_size=1, max_size=12), st.integers(1, 3), st.integers(1, 40), st.integers(0, 9))
def test_rows_are_those_of_a_plain_loop_whatever_the_batch_size(
    lengths: list[int], n_groups: int, batch_tokens: int, seed: int
) -> None:
    text = ragged(lengths, min(n_groups, len(lengths)), seed)
    batches = list(text.iter_batches(batch_tokens))
    kept, moments = [], []
    for number, (ids, group) in enumerate(zip(text.ids, text.context_group, strict=True)):
        error_group = number * min(5, len(lengths)) // len(lengths) if text.n_groups == 1 else group
        kept += [(ids[p], number, group, ids[p]) for p in text.kept_positions[number]]
        moments += [(ids[p], error_group, p == 0) for p in text.moment_positions[number]]
    assert concatenate(batches) == {
        "ids": np.concatenate(text.ids).tolist(),
        "special": np.concatenate(text.special_masks).tolist(),
        "group": text.error_group.tolist(),
        "kept": kept,
        "moments": moments,
    }
    assert all(len(batch.ids) == 1 or batch.ids.size <= batch_tokens for batch in batches)
    assert all(batch.ids.dtype == np.int64 for batch in batches)


def test_a_batch_is_as_large_as_allowed() -> None:
    text = ragged([4] * 10 + [3] * 5, 1, 0)
    assert [b.ids.shape for b in text.iter_batches(13)] == [(3, 4), (3, 4), (3, 4), (1, 4), (4, 3), (1, 3)]
    assert [b.ids.shape for b in text.iter_batches(10**9)] == [(10, 4), (5, 3)]


def test_counts_are_those_of_the_rows() -> None:
    text = ragged([4, 2, 3, 5], 2, 0)
    assert (len(text), text.n_tokens, text.context_tokens, text.n_groups) == (4, 14, 5, 2)
    assert text.n_kept == sum(len(batch.kept_rows) for batch in text.iter_batches(1))
    in_groups = np.concatenate([batch.moment_group for batch in text.iter_batches(1)])
    assert text.moment_rows_per_group == [int((in_groups == g).sum()) for g in (0, 1)]


@pytest.mark.parametrize("change", ["id", "boundary"])
def test_the_digest_tells_other_ids_and_other_boundaries_apart(change: str) -> None:
    one, same = ragged([4, 2], 1, 0), ragged([4, 2], 1, 1)
    assert one.digest == same.digest
    other = ragged([3, 3], 1, 0) if change == "boundary" else ragged([4, 2], 1, 0)
    if change == "id":
        other.ids[1][0] += 1
    assert other.digest != one.digest
