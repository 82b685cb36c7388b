"""Recipes: every setting that may change a result, as `name@version`."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, TypeAdapter, field_validator

from pipeline.errors import UsageError
from pipeline.strict_model import StrictModel, digest_json, suggest

PositiveCount = Annotated[int, Field(gt=0)]
FLOAT32_MAX_PARAMS = 1_500_000_000
"""Parameters up to which dtype `auto` means float32; bfloat16 above."""


class Recipe(StrictModel):
    """Fields shared by both forms of a recipe."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]*$")]
    version: PositiveCount
    """Raise it whenever another field changes."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of every random choice: offsets, positions, random tokens, the mask of the masked loss."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Weight dtype of the forward pass; auto = float32 up to 1.5B parameters, bfloat16 above."""
    bos: Literal["none", "first", "tokenizer"] = "none"
    """Special tokens: none = no token; first = BOS before every context; tokenizer = the tokenizer's default."""
    sink_multiple: Annotated[float, Field(gt=1)] = 8.0
    """A token is a sink if it is the first of its context or its norm exceeds this many pilot norms in any block."""
    k: Annotated[int, Field(ge=2, le=1024)] = 64
    """Largest scale of the GRIDE curve; the k-NN graph holds 2k neighbours per point."""
    authors_points: Annotated[int, Field(ge=20)] = 4096
    """Number of points of `id_authors`, taken from the start of the kept points, duplicates included."""
    mask_share: Annotated[float, Field(gt=0, lt=1)] = 0.15
    """Fraction of positions masked for the masked-language-model loss of encoders."""
    allow_shorter: bool = False
    """Cut contexts to the model's position table (flagged) instead of raising an error."""
    surrogate: bool = False
    """Also measure the dimension of Gaussian points that have each layer's covariance."""

    @property
    def label(self) -> str:
        return f"{self.name}@{self.version}"

    @property
    def fingerprint(self) -> str:
        """Digest of every field that may change a result and differs from its default.

        A field added later, with the previous behaviour as its default, therefore changes no fingerprint.
        """
        return digest_json(self.model_dump(mode="json", exclude_defaults=True, exclude={"name", "version"}))


class ContextRecipe(Recipe):
    """Sampling of `standard` and `quick`: many contexts, few tokens of each."""

    contexts: PositiveCount
    """Contexts per group."""
    groups: PositiveCount = 1
    """Disjoint groups of contexts, each with its own k-NN graph; standard errors are computed over the groups."""
    context_tokens: Annotated[int, Field(ge=2)]
    """Tokens per context."""
    kept_per_context: PositiveCount
    """Positions of each context kept for the k-NN cloud, drawn uniformly without replacement."""
    moment_tokens: PositiveCount | None = None
    """Positions of each context used for the moments, drawn in the same way; None = all."""
    allow_smaller: bool = False
    """Use fewer tokens on a small corpus (flagged) instead of raising an error."""

    @field_validator("kept_per_context", "moment_tokens")
    @classmethod
    def _fits_the_context(cls, value: int | None, info: Any) -> int | None:
        tokens = info.data.get("context_tokens")
        if value is not None and tokens is not None and value > tokens:
            raise ValueError(f"{value} positions exceed context_tokens ({tokens})")
        return value

    @property
    def n_contexts(self) -> int:
        return self.contexts * self.groups

    @property
    def forwarded_tokens(self) -> int:
        """Tokens in the forward pass of a cell."""
        return self.n_contexts * self.context_tokens


class SnippetRecipe(Recipe):
    """Published protocol: snippets of a fixed number of characters, every token kept, one group."""

    snippets: PositiveCount
    snippet_chars: PositiveCount = 512
    order: Literal["sequential", "seeded"] = "sequential"
    """sequential = from the start of the corpus; seeded = multiples of `snippet_chars` drawn by random.Random(0)."""
    max_tokens: PositiveCount | None = None
    """Maximum tokens of each snippet; None = all, on random corpora 128."""

    @property
    def forwarded_tokens(self) -> int:
        """Tokens in the forward pass of a cell, estimated at four characters per token if there is no maximum."""
        return self.snippets * (self.max_tokens or self.snippet_chars // 4)


def _form(value: Any) -> str | None:
    if not isinstance(value, dict | Recipe):
        return None
    return "snippets" if "snippets" in dict(value) else "contexts"


AnyRecipe = Annotated[
    Annotated[ContextRecipe, Tag("contexts")] | Annotated[SnippetRecipe, Tag("snippets")],
    Discriminator(_form, "recipe_form", "write the name@version of a built-in recipe, or the fields of a recipe"),
]
RECIPE_ADAPTER: TypeAdapter[ContextRecipe | SnippetRecipe] = TypeAdapter(AnyRecipe)

BUILT_IN_RECIPES: dict[str, ContextRecipe | SnippetRecipe] = {
    recipe.label: recipe
    for recipe in (
        SnippetRecipe(name="authors", version=1, snippets=128, order="seeded", bos="tokenizer"),
        SnippetRecipe(
            name="authors-float32", version=1, snippets=128, order="seeded", bos="tokenizer", dtype="float32"
        ),
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
        ContextRecipe(name="real", version=1, groups=4, contexts=32, context_tokens=64, kept_per_context=20),
    )
}


def built_in_recipe(label: str) -> ContextRecipe | SnippetRecipe:
    """Return the built-in recipe `name@version`; UsageError for any other label."""
    if label not in BUILT_IN_RECIPES:
        found = f"no such recipe{suggest(label, list(BUILT_IN_RECIPES))}"
        raise UsageError(f"recipe {label!r}", found, "Write a built-in label, or the recipe's fields")
    return BUILT_IN_RECIPES[label]
