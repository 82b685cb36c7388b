"""Token ids of all contexts: windows or snippets of a text, or random tokens (uniform or unigram)."""

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
"""Length in tokens of a context of random tokens if a snippet recipe has no `max_tokens`."""
SET_TOKENIZER = "Set `tokenizer` of the checkpoint source to the model's own tokenizer"


@dataclass(frozen=True)
class DrawRequest:
    """All inputs that determine the token ids of a cell."""

    corpus: Corpus
    recipe: ContextRecipe | SnippetRecipe
    tokenizer: TokenizerProtocol
    vocab_size: int
    max_positions: int | None


class DrawnTokens(NamedTuple):
    """Contexts in the order in which they were read or drawn, before they are sorted by group."""

    ids: list[np.ndarray]
    """One array of token ids per context, int32 `[tokens]`."""
    special_masks: list[np.ndarray]
    """One mask per context, bool `[tokens]`: True at the special tokens that were added around the text."""
    flags: tuple[str, ...]
    """Those of the flags `shorter_context`, `smaller_corpus` and `tokenizer_round_trip` that apply."""


def draw_tokens(request: DrawRequest) -> DrawnTokens:
    """Return the contexts that the recipe reads or draws from the corpus."""
    if isinstance(request.recipe, SnippetRecipe) and not request.corpus.kind.startswith("random"):
        snippets, shortened = _snippets(request, request.recipe)
        ids, special = [snippet.ids for snippet in snippets], [snippet.special_mask for snippet in snippets]
        wanted = request.recipe.snippets
    else:
        layout = _context_layout(request.recipe)
        tokens = _allowed_length(layout.context_tokens, request)
        ids = list(_draw_equal_length(request, layout._replace(context_tokens=tokens)))
        special = [get_special_tokens(request.recipe, request.tokenizer).special_mask(tokens)] * len(ids)
        shortened, wanted = tokens < layout.context_tokens, layout.n_contexts
    _require_ids_in_vocabulary(ids, request)
    flags = {
        "shorter_context": shortened,
        "smaller_corpus": len(ids) < wanted,
        "tokenizer_round_trip": request.corpus.kind != "random-uniform" and not request.tokenizer.round_trips,
    }
    return DrawnTokens(ids, special, tuple(flag for flag, holds in flags.items() if holds))


def _snippets(request: DrawRequest, recipe: SnippetRecipe) -> tuple[list[Snippet], bool]:
    """Return the snippets, and True if any of them was cut to the size of the model's position table."""
    text = memmap_text(prepare_text_file(request.corpus))
    snippets = read_snippets(text, recipe, request.tokenizer, request.corpus.id)
    longest = max(len(snippet.ids) for snippet in snippets)
    tokens = _allowed_length(longest, request)
    return [snippet.truncate(tokens) for snippet in snippets], tokens < longest


def _context_layout(recipe: ContextRecipe | SnippetRecipe) -> ContextLayout:
    if isinstance(recipe, SnippetRecipe):
        tokens = recipe.max_tokens or DEFAULT_RANDOM_TOKENS
        return ContextLayout(recipe.snippets, tokens, 1, recipe.seed, allow_smaller=False)
    return ContextLayout(recipe.n_contexts, recipe.context_tokens, recipe.groups, recipe.seed, recipe.allow_smaller)


def _allowed_length(tokens: int, request: DrawRequest) -> int:
    """Return `tokens`, or the size of the model's position table if that is smaller.

    Raises:
        CorpusError: the position table is smaller, and the recipe does not allow shorter contexts.
    """
    limit = request.max_positions
    if limit is None or tokens <= limit:
        return tokens
    if not request.recipe.allow_shorter:
        asked, found = f"contexts of {tokens} tokens ({request.recipe.label})", f"the model has {limit} positions"
        raise CorpusError(asked, found, "Use a recipe with shorter contexts, or set allow_shorter: true to cut them")
    return limit


def _draw_equal_length(request: DrawRequest, layout: ContextLayout) -> np.ndarray:
    """Return token ids, int32 `[contexts, tokens]`, including the special tokens around each context."""
    special = get_special_tokens(request.recipe, request.tokenizer)
    if len(special) >= layout.context_tokens:
        asked = f"contexts of {layout.context_tokens} tokens ({request.recipe.label})"
        do = f"Use contexts of more than {len(special)} tokens, or bos: none"
        raise UsageError(asked, f"the {len(special)} special tokens leave no room for text", do)
    body = layout._replace(context_tokens=layout.context_tokens - len(special))
    if request.corpus.kind == "random-uniform":
        size = (body.n_contexts, body.context_tokens)
        return special.wrap(make_generator(body.seed, "uniform").choice(_plain_ids(request), size))
    ids = read_window_ids(memmap_text(prepare_text_file(request.corpus)), request.tokenizer, body, request.corpus.id)
    if request.corpus.kind == "random-unigram":
        ids = _permute(ids, _plain_ids(request), make_generator(body.seed, "unigram"))
    return special.wrap(ids)


def _permute(ids: np.ndarray, plain: np.ndarray, choices: np.random.Generator) -> np.ndarray:
    """Return the ids, randomly permuted over all contexts.

    An id that is not in `plain` is first replaced by a random one of the ids that are.
    """
    pool = ids.ravel()
    is_plain = np.isin(pool, plain)
    pool = np.where(is_plain, pool, choices.choice(pool[is_plain], len(pool)))
    return choices.permutation(pool).reshape(ids.shape)


def _plain_ids(request: DrawRequest) -> np.ndarray:
    if len(plain := request.tokenizer.text_token_ids(request.vocab_size)):
        return plain
    found = "the tokenizer has no text tokens in this range"
    raise CorpusError(f"random tokens with ids below {request.vocab_size}", found, SET_TOKENIZER)


def _require_ids_in_vocabulary(ids: list[np.ndarray], request: DrawRequest) -> None:
    used = np.unique(np.concatenate(ids))
    if len(beyond := used[used >= request.vocab_size]):
        found = f"the tokenizer yields id {beyond[-1]}, and the model accepts ids below {request.vocab_size}"
        few = f" ({len(beyond)} ids: {', '.join(map(str, beyond[:3]))}{' ...' if len(beyond) > 3 else ''})"
        do = f"{SET_TOKENIZER}; if this is its own tokenizer, use a text without these tokens"
        raise CorpusError(f"token ids of corpus {request.corpus.id}", found + few, do)
