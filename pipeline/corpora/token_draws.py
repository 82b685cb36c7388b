"""Token ids of every context: windows or snippets of a text, or random tokens of two kinds."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pipeline.corpora.resolve import prepare_text_file
from pipeline.corpora.snippets import Snippet, read_snippets
from pipeline.corpora.special_tokens import TokenizerProtocol, get_special_tokens, make_generator
from pipeline.corpora.windows import ContextLayout, memmap_text, read_window_ids
from pipeline.errors import CorpusError, UsageError
from pipeline.spec import ContextRecipe, Corpus, SnippetRecipe

DEFAULT_RANDOM_TOKENS = 128
"""Length of a context of random tokens where a snippet recipe states none."""


@dataclass(frozen=True)
class DrawRequest:
    """All that the ids of a cell depend on."""

    corpus: Corpus
    recipe: ContextRecipe | SnippetRecipe
    tokenizer: TokenizerProtocol
    vocab_size: int
    max_positions: int | None


class DrawnTokens(NamedTuple):
    """Each context in the order of the corpus, and the flags that hold."""

    ids: list[np.ndarray]
    """int32 `[tokens]`."""
    special_masks: list[np.ndarray]
    """Which of them are special tokens put around the text, bool."""
    flags: tuple[str, ...]


def draw_tokens(asked: DrawRequest) -> DrawnTokens:
    """The contexts that the recipe takes from the corpus."""
    if isinstance(asked.recipe, SnippetRecipe) and not asked.corpus.kind.startswith("random"):
        found, shortened = _snippets(asked, asked.recipe)
        ids, special = [snippet.ids for snippet in found], [snippet.special_mask for snippet in found]
        wanted = asked.recipe.snippets
    else:
        shape = _context_layout(asked.recipe)
        tokens = _allowed_length(shape.context_tokens, asked)
        ids = list(_draw_equal_length(asked, shape._replace(context_tokens=tokens)))
        special = [get_special_tokens(asked.recipe, asked.tokenizer).special_mask(tokens)] * len(ids)
        shortened, wanted = tokens < shape.context_tokens, shape.n_contexts
    _require_ids_in_vocabulary(ids, asked)
    flags = {
        "shorter_context": shortened,
        "smaller_corpus": len(ids) < wanted,
        "tokenizer_round_trip": asked.corpus.kind != "random-uniform" and not asked.tokenizer.round_trips,
    }
    return DrawnTokens(ids, special, tuple(flag for flag, holds in flags.items() if holds))


def _snippets(asked: DrawRequest, recipe: SnippetRecipe) -> tuple[list[Snippet], bool]:
    """Ragged snippets, and whether any had to be cut to the model's positions."""
    found = read_snippets(memmap_text(prepare_text_file(asked.corpus)), recipe, asked.tokenizer, asked.corpus.id)
    longest = max(len(snippet.ids) for snippet in found)
    tokens = _allowed_length(longest, asked)
    return [snippet.truncate(tokens) for snippet in found], tokens < longest


def _context_layout(recipe: ContextRecipe | SnippetRecipe) -> ContextLayout:
    if isinstance(recipe, SnippetRecipe):
        return ContextLayout(
            recipe.snippets, recipe.max_tokens or DEFAULT_RANDOM_TOKENS, 1, recipe.seed, allow_smaller=False
        )
    return ContextLayout(recipe.n_contexts, recipe.context_tokens, recipe.groups, recipe.seed, recipe.allow_smaller)


def _allowed_length(tokens: int, asked: DrawRequest) -> int:
    """The length that the model's position table allows."""
    limit = asked.max_positions
    if limit is None or tokens <= limit:
        return tokens
    if not asked.recipe.allow_shorter:
        raise CorpusError(
            f"contexts of {tokens} tokens ({asked.recipe.label})",
            f"the model has {limit} positions",
            "Use a recipe with shorter contexts, or allow_shorter: true to cut them",
        )
    return limit


def _draw_equal_length(asked: DrawRequest, shape: ContextLayout) -> np.ndarray:
    """Ids `[contexts, tokens]`, special tokens included."""
    special = get_special_tokens(asked.recipe, asked.tokenizer)
    if len(special) >= shape.context_tokens:
        raise UsageError(
            f"contexts of {shape.context_tokens} tokens ({asked.recipe.label})",
            f"{len(special)} of them are special tokens",
            "Use longer contexts, or bos: none",
        )
    body = shape._replace(context_tokens=shape.context_tokens - len(special))
    if asked.corpus.kind == "random-uniform":
        size = (body.n_contexts, body.context_tokens)
        return special.wrap(make_generator(body.seed, "uniform").choice(_plain_ids(asked), size))
    ids = read_window_ids(memmap_text(prepare_text_file(asked.corpus)), asked.tokenizer, body, asked.corpus.id)
    if asked.corpus.kind == "random-unigram":
        ids = _permuted(ids, _plain_ids(asked), make_generator(body.seed, "unigram"))
    return special.wrap(ids)


def _permuted(ids: np.ndarray, plain: np.ndarray, choices: np.random.Generator) -> np.ndarray:
    """The same tokens in random order over all contexts; any that is not plain gives way to one drawn from the rest."""
    pool = ids.ravel()
    is_plain = np.isin(pool, plain)
    pool = np.where(is_plain, pool, choices.choice(pool[is_plain], len(pool)))
    return choices.permutation(pool).reshape(ids.shape)


def _plain_ids(asked: DrawRequest) -> np.ndarray:
    if len(plain := asked.tokenizer.text_token_ids(asked.vocab_size)):
        return plain
    raise CorpusError(
        f"random tokens below {asked.vocab_size}",
        "the tokenizer has none that stands for text",
        "Use another tokenizer",
    )


def _require_ids_in_vocabulary(ids: list[np.ndarray], asked: DrawRequest) -> None:
    if (largest := max(int(of_context.max()) for of_context in ids)) >= asked.vocab_size:
        raise CorpusError(
            f"token ids of corpus {asked.corpus.id}",
            f"the tokenizer gives {largest}, the model knows ids below {asked.vocab_size}",
            "Name the model's own tokenizer",
        )
