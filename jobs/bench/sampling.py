"""Effect of measuring few tokens per context: the shift of anisotropy, in units of its standard error."""

from collections.abc import Iterator

from jobs.bench.checkpoint import BATCH_TOKENS, Loaded, build
from jobs.bench.comparison import Comparison, Subject, at_most
from jobs.bench.scale import Scale
from pipeline.measure import measure
from pipeline.recipe import ContextRecipe, built_in_recipe

LAYERS, WIDTH, VOCABULARY = 6, 128, 1024


def rows(scale: Scale, device: str) -> Iterator[Comparison]:
    """Yield one row that compares anisotropy of few tokens per context with anisotropy of all tokens.

    The difference is set against the standard error. The recipe is `standard@1` with fewer contexts, and each layer
    counts as one round.
    """
    standard = built_in_recipe("standard@1")
    assert isinstance(standard, ContextRecipe)
    recipe = standard.model_copy(update={"contexts": scale.sampled_contexts, "dtype": "float32"})
    loaded = build(LAYERS, WIDTH, VOCABULARY, recipe, device)
    few, full = (_anisotropy(loaded, tokens, device) for tokens in (recipe.moment_tokens, None))
    shifts = [abs(a - b) for (a, _), (b, _) in zip(few, full, strict=True)]
    errors = [error for _, error in few]
    worst = max(shift / error for shift, error in zip(shifts, errors, strict=True))
    work = f"anisotropy of {recipe.moment_tokens} instead of {recipe.context_tokens} tokens per context"
    subject, note = (
        Subject("measure", work, recipe.forwarded_tokens, WIDTH),
        f"median of {len(shifts)} states, the worst {worst:.2g} x",
    )
    yield Comparison(subject, "its standard error", "anisotropy", shifts, errors, at_most(1.0), note)


def _anisotropy(loaded: Loaded, moment_tokens: int | None, device: str) -> list[tuple[float, float]]:
    """Return the anisotropy of each layer and its standard error; all tokens count if `moment_tokens` is None."""
    recipe = loaded.cell.recipe.model_copy(update={"moment_tokens": moment_tokens})
    cell = loaded.cell.model_copy(update={"recipe": recipe})
    rows = measure(cell, loaded.checkpoint, BATCH_TOKENS[device])
    return [(float(str(row["anisotropy"])), float(str(row["anisotropy_se"]))) for row in rows]
