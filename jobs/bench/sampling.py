"""Whether few tokens per context give the anisotropy of all of them: how far it moves beside its standard error."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

from jobs.bench.checkpoint import BATCH_TOKENS, Loaded, load
from jobs.bench.comparison import Comparison, Subject, at_most
from jobs.bench.decoder import save_decoder
from jobs.bench.scale import Scale
from pipeline.measure import measure
from pipeline.recipe import ContextRecipe, built_in_recipe

LAYERS, WIDTH, VOCABULARY = 6, 128, 1024


def rows(scale: Scale, device: str) -> Iterator[Comparison]:
    """`standard@1` with fewer contexts, on a decoder with random weights; each layer is a round."""
    standard = built_in_recipe("standard@1")
    assert isinstance(standard, ContextRecipe)
    recipe = standard.model_copy(update={"contexts": scale.sampled_contexts, "dtype": "float32"})
    with tempfile.TemporaryDirectory() as folder:
        save_decoder(Path(folder), LAYERS, WIDTH, VOCABULARY, recipe.context_tokens)
        loaded = load(Path(folder), recipe, device)
        few, every = (_anisotropy(loaded, tokens, device) for tokens in (recipe.moment_tokens, None))
    moved = [abs(one - other) for (one, _), (other, _) in zip(few, every, strict=True)]
    errors = [error for _, error in few]
    worst = max(distance / error for distance, error in zip(moved, errors, strict=True))
    work = f"anisotropy of {recipe.moment_tokens} instead of {recipe.context_tokens} tokens per context"
    subject, note = (
        Subject("measure", work, recipe.forwarded_tokens, WIDTH),
        f"median of {len(moved)} states, the worst {worst:.2g} x",
    )
    yield Comparison(subject, "its standard error", "anisotropy", moved, errors, at_most(1.0), note)


def _anisotropy(loaded: Loaded, moment_tokens: int | None, device: str) -> list[tuple[float, float]]:
    """Of every state, with its standard error."""
    recipe = loaded.cell.recipe.model_copy(update={"moment_tokens": moment_tokens})
    cell = loaded.cell.model_copy(update={"recipe": recipe})
    found = measure(cell, loaded.opened, BATCH_TOKENS[device])
    return [(float(str(row["anisotropy"])), float(str(row["anisotropy_se"]))) for row in found]
