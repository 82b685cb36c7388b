"""From a corpus, a recipe and a tokenizer to contexts and sampled positions: made once per tokenizer, then kept."""

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
    """The contexts of a resolved corpus, the same for every checkpoint with this tokenizer.

    Context recipes take disjoint windows spread over all of a text and deal them to the groups in turn; a window begins
    at a character, not at a word. Snippet recipes take characters. `random-uniform` draws ids that stand for text;
    `random-unigram` permutes the tokens of its text's windows over all contexts, so that their frequencies are exact.
    Special tokens count as part of a context's length.

    Args:
        vocab_size: of the model; no id reaches it.
        max_positions: of the model's position table; null where it has none.
        tokenizer_digest: of the tokenizer's files; the result is kept in the cache under it, or not at all if null.

    Raises:
        CorpusError: the corpus is too small, a context longer than the position table (both with both numbers), or the
            tokenizer another model's.
        UsageError: special tokens that the tokenizer does not have.
    """
    asked = DrawRequest(corpus, recipe, tokenizer, vocab_size, max_positions)
    if tokenizer_digest is None:
        return _build(asked)
    path = cache.folder("contexts") / f"{_key(asked, tokenizer_digest)}.npz"
    with cache.hold_file_lock(path):
        if (known := _from_npz(path)) is not None:
            return known
        made = _build(asked)
        cache.write_atomic(path, _to_npz(made))
    return made


def _key(asked: DrawRequest, tokenizer_digest: str) -> str:
    return digest_json(
        {
            "corpus": [asked.corpus.kind, asked.corpus.sha256],
            "cleaning": ALGORITHMS["cleaning"] if asked.corpus.kind == "enwik8" else None,
            "tokenizer": tokenizer_digest,
            "model": [asked.vocab_size, asked.max_positions],
            "recipe": asked.recipe.model_dump(mode="json", exclude=_NO_SAMPLING),
            "sampling": ALGORITHMS["sampling"],
        }
    )


def _build(asked: DrawRequest) -> Contexts:
    ids, special, flags = draw_tokens(asked)
    text = text_sha256(asked.corpus)
    if isinstance(asked.recipe, SnippetRecipe):
        every = tuple(np.arange(len(of_context)) for of_context in ids)
        return Contexts(tuple(ids), np.zeros(len(ids), np.int64), every, every, tuple(special), text, flags)
    groups = np.arange(len(ids)) % asked.recipe.groups
    order = np.argsort(groups, kind="stable")
    tokens, seed = len(ids[0]), asked.recipe.seed
    kept = _positions(len(ids), tokens, asked.recipe.kept_per_context, make_generator(seed, "kept"))
    moments = _positions(len(ids), tokens, asked.recipe.moment_tokens or tokens, make_generator(seed, "moments"))
    # `special` is the same for all of them and needs no order.
    return Contexts(tuple(ids[i] for i in order), groups[order], kept, moments, tuple(special), text, flags)


def _positions(contexts: int, tokens: int, count: int, choices: np.random.Generator) -> RaggedArrays:
    """Sorted positions, drawn uniformly without replacement in each context; all where `count` asks for more."""
    drawn = np.argsort(choices.random((contexts, tokens)), axis=1)[:, :count]
    return tuple(np.sort(drawn, axis=1).astype(np.int64))


def _to_npz(made: Contexts) -> bytes:
    strings = {"flags": np.array(made.flags, str), "text_sha256": np.array(made.text_sha256 or "")}
    arrays = {"group": made.context_group, "digest": np.array(made.digest), **strings}
    for name in _RAGGED:
        parts = getattr(made, name)
        arrays |= {name: np.concatenate(parts), f"{name}_sizes": np.array([len(part) for part in parts])}
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **arrays)
    return file.getvalue()


def _from_npz(path: Path) -> Contexts | None:
    """What was kept; None where nothing was, or the file is damaged and must be made again."""
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            ragged = {name: tuple(np.split(file[name], file[f"{name}_sizes"].cumsum()[:-1])) for name in _RAGGED}
            strings = {"text_sha256": str(file["text_sha256"]) or None, "flags": tuple(file["flags"].tolist())}
            known = Contexts(**ragged, context_group=file["group"], **strings)
            return known if known.digest == str(file["digest"]) else None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return None
