"""Failures that a plan predicts from configs, tokenizers and sizes of texts; no weights are read."""

from collections.abc import Iterable
from typing import NamedTuple

from pipeline.catalog.digests import NO_TOKENIZER
from pipeline.corpora import plain_text_bytes
from pipeline.recipe import ContextRecipe
from pipeline.spec import Cell, Checkpoint, Corpus

SPECIAL_TOKENS = 4
"""Upper bound on the special tokens that a tokenizer adds to a context."""


class ForeseenFailure(NamedTuple):
    """Reason why the cells of some checkpoints will fail."""

    labels: tuple[str, ...]
    """MODEL@REVISION of each checkpoint, in training order."""
    says: str
    """Predicted cause of the failure, and what to do about it."""


def foresee_failures(cells: Iterable[Cell]) -> tuple[ForeseenFailure, ...]:
    """Return one entry per reason why cells will fail, with all checkpoints that the reason concerns."""
    labels: dict[str, dict[str, None]] = {}
    too_short: dict[str, str | None] = {}
    for cell in cells:
        corpus = cell.corpus
        if corpus.id not in too_short:
            too_short[corpus.id] = _why_too_short(corpus, cell.recipe)
        for reason in filter(None, (*_why_unloadable(cell.checkpoint), too_short[corpus.id])):
            labels.setdefault(reason, {})[cell.checkpoint.label] = None
    return tuple(ForeseenFailure(tuple(names), reason) for reason, names in labels.items())


def _why_unloadable(checkpoint: Checkpoint) -> Iterable[str]:
    if not checkpoint.kinds:
        yield (
            "config.json names no known architecture; leave the checkpoint out, or add its architecture to "
            "pipeline/catalog/architectures.py"
        )
    if checkpoint.tokenizer_digest == NO_TOKENIZER:
        yield "no tokenizer files; name a folder or repo with them as `tokenizer:` of the source"


def _why_too_short(corpus: Corpus, recipe: object) -> str | None:
    """Return the reason why a text is too short for the recipe; None if it may be long enough.

    A text is too short if it has fewer bytes than the recipe needs tokens, because a token covers at least one byte.
    """
    if not isinstance(recipe, ContextRecipe) or recipe.allow_smaller:
        return None
    needed, found = recipe.n_contexts * max(recipe.context_tokens - SPECIAL_TOKENS, 1), plain_text_bytes(corpus)
    if found is None or found >= needed:
        return None
    do = "use a larger text or a smaller recipe, or set allow_smaller: true"
    return f"corpus {corpus.id} has {found:,} bytes, too few for {recipe.forwarded_tokens:,} tokens; {do}"
