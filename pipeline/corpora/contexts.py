"""Construction of contexts and sampled positions from a corpus, a recipe and a tokenizer, with a cache on disk."""

import io
import zipfile
import zlib
from pathlib import Path

import numpy as np

from pipeline import cache
from pipeline.corpora.batches import Contexts, RaggedArrays
from pipeline.corpora.resolve import text_sha256
from pipeline.corpora.special_tokens import TokenizerProtocol, make_generator
from pipeline.corpora.token_draws import DrawRequest, draw_tokens
from pipeline.spec import ALGORITHMS, ContextRecipe, Corpus, SnippetRecipe
from pipeline.strict_model import digest_json

_RAGGED = ("ids", "kept_positions", "moment_positions", "special_masks")
_NO_SAMPLING = {"name", "version", "dtype", "sink_multiple", "k", "authors_points", "mask_share", "surrogate"}


def build_contexts(
    corpus: Corpus,
    recipe: ContextRecipe | SnippetRecipe,
    tokenizer: TokenizerProtocol,
    vocab_size: int,
    max_positions: int | None,
    tokenizer_digest: str | None = None,
) -> Contexts:
    """Return the contexts of a resolved corpus; they are identical for all checkpoints with this tokenizer.

    The recipe and the kind of corpus decide what a context is:

    - A context recipe reads disjoint windows, which are spread over the whole text, and assigns them to the groups in
      turn. A window starts at a character boundary, which may be inside a word.
    - A snippet recipe reads pieces of the text with a fixed number of characters.
    - On `random-uniform`, each token id is drawn uniformly from the ids of text tokens.
    - On `random-unigram`, the windows of the text are read and their tokens are permuted over all contexts, so that
      token frequencies stay those of the text. Special and added tokens are first replaced by text tokens.

    The special tokens around a context count towards its length.

    Args:
        vocab_size: exclusive upper bound of the token ids that the model accepts.
        max_positions: size of the model's position table; None if the model has no such table.
        tokenizer_digest: checksum of the tokenizer's files, part of the cache key; None = do not use the cache.

    Raises:
        CorpusError: the corpus is too small, a context is longer than the position table, or the tokenizer yields ids
            outside the vocabulary. The message states the limit and the value found.
        UsageError: the tokenizer lacks the special tokens that the recipe needs.
    """
    request = DrawRequest(corpus, recipe, tokenizer, vocab_size, max_positions)
    if tokenizer_digest is None:
        return _build(request)
    path = cache.folder("contexts") / f"{_key(request, tokenizer_digest)}.npz"
    with cache.hold_file_lock(path):
        if (cached := _from_npz(path)) is not None:
            return cached
        contexts = _build(request)
        cache.write_atomic(path, _to_npz(contexts))
    return contexts


def _key(request: DrawRequest, tokenizer_digest: str) -> str:
    key = {
        **{"corpus": [request.corpus.kind, request.corpus.sha256], "tokenizer": tokenizer_digest},
        **{"model": [request.vocab_size, request.max_positions], "sampling": ALGORITHMS["sampling"]},
        "cleaning": ALGORITHMS["cleaning"] if request.corpus.kind == "enwik8" else None,
        "recipe": request.recipe.model_dump(mode="json", exclude=_NO_SAMPLING),
    }
    return digest_json(key)


def _build(request: DrawRequest) -> Contexts:
    ids, special, flags = draw_tokens(request)
    text = text_sha256(request.corpus)
    if isinstance(request.recipe, SnippetRecipe):
        every = tuple(np.arange(len(context)) for context in ids)
        return Contexts(tuple(ids), np.zeros(len(ids), np.int64), every, every, tuple(special), text, flags)
    groups = np.arange(len(ids)) % request.recipe.groups
    order = np.argsort(groups, kind="stable")
    tokens, seed = len(ids[0]), request.recipe.seed
    kept = _positions(len(ids), tokens, request.recipe.kept_per_context, make_generator(seed, "kept"))
    moments = _positions(len(ids), tokens, request.recipe.moment_tokens or tokens, make_generator(seed, "moments"))
    # All contexts of a context recipe have the same special mask, so `special` needs no reordering.
    return Contexts(tuple(ids[i] for i in order), groups[order], kept, moments, tuple(special), text, flags)


def _positions(contexts: int, tokens: int, count: int, choices: np.random.Generator) -> RaggedArrays:
    """Draw min(count, tokens) positions of each context, uniformly without replacement, and return them ascending."""
    drawn = np.argsort(choices.random((contexts, tokens)), axis=1)[:, :count]
    return tuple(np.sort(drawn, axis=1).astype(np.int64))


def _to_npz(contexts: Contexts) -> bytes:
    strings = {"flags": np.array(contexts.flags, str), "text_sha256": np.array(contexts.text_sha256 or "")}
    arrays = {"group": contexts.context_group, "digest": np.array(contexts.digest), **strings}
    for name in _RAGGED:
        parts = getattr(contexts, name)
        arrays |= {name: np.concatenate(parts), f"{name}_sizes": np.array([len(part) for part in parts])}
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **arrays)
    return file.getvalue()


def _from_npz(path: Path) -> Contexts | None:
    """Return the cached contexts; None if the file is absent or damaged."""
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            ragged = {name: tuple(np.split(file[name], file[f"{name}_sizes"].cumsum()[:-1])) for name in _RAGGED}
            strings = {"text_sha256": str(file["text_sha256"]) or None, "flags": tuple(file["flags"].tolist())}
            contexts = Contexts(**ragged, context_group=file["group"], **strings)
            return contexts if contexts.digest == str(file["digest"]) else None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return None
