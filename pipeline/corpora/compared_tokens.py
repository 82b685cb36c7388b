"""Choice of the tokens for which similarity records are made.

The choice depends only on the contexts, the number of tokens and the seed, so that all checkpoints with the same
contexts use the same tokens.
"""

from dataclasses import replace

import numpy as np

from pipeline.corpora.batches import Contexts, RaggedArrays
from pipeline.corpora.special_tokens import make_generator
from pipeline.strict_model import digest_json


def with_compared_tokens(text: Contexts, tokens: int, seed: int) -> Contexts:
    """Return a copy of `text` with `compared_positions`: random positions, at most `tokens` in all contexts together.

    Every error group contributes tokens // n_error_groups positions, spread over its contexts, or all its positions if
    it has fewer. The first position of a context and special tokens are never drawn.
    """
    rng, share = make_generator(seed, "similarity"), tokens // text.n_error_groups
    chosen: RaggedArrays = tuple(np.zeros(0, np.int64) for _ in text.ids)
    positions = list(chosen)
    for group in range(text.n_error_groups):
        contexts = np.flatnonzero(text.error_group == group)
        for context, position in _draw(text, contexts, share, rng):
            positions[context] = np.append(positions[context], position)
    return replace(text, compared_positions=tuple(np.sort(each) for each in positions))


def _draw(text: Contexts, contexts: np.ndarray, share: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Return at most `share` random pairs (context, position). Every context gives one before any gives a second."""
    turns = []
    for context in contexts:
        ordinary = np.flatnonzero(~text.special_masks[context])
        shuffled = rng.permutation(ordinary[ordinary > 0])
        turns += [(turn, order, int(context), int(at)) for turn, (order, at) in enumerate(_ordered(shuffled, rng))]
    return [(context, position) for _, _, context, position in sorted(turns)[:share]]


def _ordered(positions: np.ndarray, rng: np.random.Generator) -> zip:
    return zip(rng.random(len(positions)).tolist(), positions.tolist(), strict=True)


def compared_digest(text: Contexts) -> str:
    """Return the digest of all token ids and all compared positions; records with equal digests can be compared."""
    return digest_json([text.digest, [positions.tolist() for positions in text.compared_positions]])


def compared_token_ids(text: Contexts) -> np.ndarray:
    """Return the ids of the compared tokens, int32 `[compared]`, ordered by context, then by position."""
    parts = zip(text.ids, text.compared_positions, strict=True)
    return np.concatenate([ids[positions] for ids, positions in parts]).astype(np.int32)


def compared_groups(text: Contexts) -> np.ndarray:
    """Return the error group of each compared token, int16 `[compared]`, in the order of `compared_token_ids`."""
    return np.repeat(text.error_group, [len(each) for each in text.compared_positions]).astype(np.int16)
