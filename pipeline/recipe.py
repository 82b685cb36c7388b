"""Recipes: everything that may change a number, as `name@version`."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, TypeAdapter, field_validator

from pipeline.errors import UsageError
from pipeline.strict_model import StrictModel, digest_json, suggest

PositiveCount = Annotated[int, Field(gt=0)]
FLOAT32_MAX_PARAMS = 1_500_000_000
"""Parameters up to which dtype `auto` means float32; bfloat16 above."""


class Recipe(StrictModel):
    """What both forms of a recipe share."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]*$")]
    version: PositiveCount
    """Raise it whenever another field changes."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of every random choice: offsets, positions, random tokens, the mask of the masked loss."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of the weights as run; auto = float32 up to 1.5B parameters, bfloat16 above."""
    bos: Literal["none", "first", "tokenizer"] = "none"
    """none = no special token ever; first = one in front of every context; tokenizer = its own default."""
    sink_multiple: Annotated[float, Field(gt=1)] = 8.0
    """A token is a sink if it opens its context or its norm exceeds this many pilot medians."""
    k: Annotated[int, Field(ge=2, le=1024)] = 64
    """Largest scale of the GRIDE curve; the k-NN graph holds 2k neighbours per point."""
    authors_points: Annotated[int, Field(ge=20)] = 4096
    """Points of `id_authors`: the first so many kept points in order, duplicates kept."""
    mask_share: Annotated[float, Field(gt=0, lt=1)] = 0.15
    """Share of the positions masked for the masked-language-model loss of encoders."""
    allow_shorter: bool = False
    """Cut contexts to the model's position table (flagged) instead of refusing."""
    surrogate: bool = False
    """Measure the dimension of Gaussian points with each layer's own covariance too."""

    @property
    def label(self) -> str:
        return f"{self.name}@{self.version}"

    @property
    def fingerprint(self) -> str:
        """Digest of every field that may change a number; a default is part of the contract and is left out.

        So a field added later, with what the code did before as its default, changes no fingerprint.
        """
        return digest_json(self.model_dump(mode="json", exclude_defaults=True, exclude={"name", "version"}))


class ContextRecipe(Recipe):
    """Many contexts, few tokens of each: the sampling of `standard` and `quick`."""

    contexts: PositiveCount
    """Contexts per group."""
    groups: PositiveCount = 1
    """Disjoint groups of contexts, each with its own k-NN graph; standard errors come from them."""
    context_tokens: Annotated[int, Field(ge=2)]
    """Tokens per context."""
    kept_per_context: PositiveCount
    """Positions of each context kept for the k-NN cloud, drawn uniformly without replacement."""
    moment_tokens: PositiveCount | None = None
    """Positions of each context that enter the moments, drawn likewise; null = all."""
    allow_smaller: bool = False
    """Take what a small corpus has (flagged) instead of refusing it."""

    @field_validator("kept_per_context", "moment_tokens")
    @classmethod
    def _fits_the_context(cls, value: int | None, info: Any) -> int | None:
        tokens = info.data.get("context_tokens")
        if value is not None and tokens is not None and value > tokens:
            raise ValueError(f"{value} positions of a context of {tokens} tokens")
        return value

    @property
    def n_contexts(self) -> int:
        return self.contexts * self.groups

    @property
    def forwarded_tokens(self) -> int:
        """Tokens forwarded for a cell."""
        return self.n_contexts * self.context_tokens


class SnippetRecipe(Recipe):
    """Snippets of so many characters, every token kept, one group: the published protocol."""

    snippets: PositiveCount
    snippet_chars: PositiveCount = 512
    order: Literal["sequential", "seeded"] = "sequential"
    """sequential = from the head of the corpus; seeded = multiples of `snippet_chars` drawn by random.Random(0)."""
    max_tokens: PositiveCount | None = None
    """Tokens kept of each snippet; null = all. On random corpora null means 128."""

    @property
    def forwarded_tokens(self) -> int:
        """Tokens forwarded for a cell, at four characters each where none is cut off."""
        return self.snippets * (self.max_tokens or self.snippet_chars // 4)


def _form(value: Any) -> str | None:
    if not isinstance(value, dict | Recipe):
        return None
    return "snippets" if "snippets" in dict(value) else "contexts"


AnyRecipe = Annotated[
    Annotated[ContextRecipe, Tag("contexts")] | Annotated[SnippetRecipe, Tag("snippets")],
    Discriminator(_form, "recipe_form", "a recipe is the name@version of a built-in one, or its fields"),
]
RECIPE_ADAPTER: TypeAdapter[ContextRecipe | SnippetRecipe] = TypeAdapter(AnyRecipe)

BUILT_IN_RECIPES: dict[str, ContextRecipe | SnippetRecipe] = {
    recipe.label: recipe
    for recipe in (
        SnippetRecipe(name="authors", version=1, snippets=128, order="seeded", bos="tokenizer"),
        ContextRecipe(
            name="standard",
            version=1,
            groups=5,
            contexts=1024,
            context_tokens=256,
            kept_per_context=4,
            moment_tokens=32,
        ),
        ContextRecipe(name="quick", version=1, groups=4, contexts=64, context_tokens=128, kept_per_context=16),
    )
}


def built_in_recipe(label: str) -> ContextRecipe | SnippetRecipe:
    """The built-in recipe `name@version`."""
    if label not in BUILT_IN_RECIPES:
        raise UsageError(
            f"recipe {label!r}", f"no such recipe{suggest(label, list(BUILT_IN_RECIPES))}", "Name a built-in recipe"
        )
    return BUILT_IN_RECIPES[label]
