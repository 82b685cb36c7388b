"""Recipes: every setting that may change a result, as `name@version`."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, TypeAdapter, field_validator

from pipeline.errors import UsageError
from pipeline.strict_model import StrictModel, digest_json, suggest

PositiveCount = Annotated[int, Field(gt=0)]
FLOAT32_MAX_PARAMS = 1_500_000_000
"""Number of parameters up to which dtype `auto` means float32; for larger models it means bfloat16."""


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
    """Special tokens that are added to each context.

    - `none`: no token.
    - `first`: the BOS token before the context.
    - `tokenizer`: the tokens that the tokenizer adds by default.
    """
    sink_multiple: Annotated[float, Field(gt=1)] = 8.0
    """A token is a sink if it is the first of its context or its norm exceeds this many pilot norms in any block."""
    k: Annotated[int, Field(ge=2, le=1024)] = 64
    """Largest scale of the GRIDE curve; the k-NN graph holds 2k neighbours per point."""
    authors_points: Annotated[int, Field(ge=20)] = 4096
    """Number of points of `id_authors`, taken from the start of the kept points, duplicates included."""
    mask_share: Annotated[float, Field(gt=0, lt=1)] = 0.15
    """Fraction of positions masked for the masked-language-model loss of encoders."""
    allow_shorter: bool = False
    """If contexts are longer than the model's position table, cut them and set a flag instead of raising an error."""
    surrogate: bool = False
    """Also measure the dimension of Gaussian points that have each layer's covariance."""

    @property
    def label(self) -> str:
        return f"{self.name}@{self.version}"

    @property
    def fingerprint(self) -> str:
        """Digest of all fields that may change a result and are not equal to their defaults.

        If a field is added later whose default is the previous behaviour, the fingerprints of old recipes stay the
        same.
        """
        return digest_json(self.model_dump(mode="json", exclude_defaults=True, exclude={"name", "version"}))


class ContextRecipe(Recipe):
    """Recipe that samples a few tokens from each of many contexts, such as `standard` and `quick`."""

    contexts: PositiveCount
    """Number of contexts per group."""
    groups: PositiveCount = 1
    """Number of disjoint groups of contexts, each with its own k-NN graph; standard errors come from their spread."""
    context_tokens: Annotated[int, Field(ge=2)]
    """Number of tokens per context."""
    kept_per_context: PositiveCount
    """Number of positions per context that enter the k-NN graph, drawn uniformly without replacement."""
    moment_tokens: PositiveCount | None = None
    """Number of positions per context that enter the moments, drawn in the same way; None = all positions."""
    allow_smaller: bool = False
    """If the corpus is too small, use fewer tokens and set a flag instead of raising an error."""

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
        """Number of tokens that pass through the model for one cell."""
        return self.n_contexts * self.context_tokens


class SnippetRecipe(Recipe):
    """Recipe of a published protocol: it reads snippets with a fixed number of characters, and keeps every token.

    There is one group of contexts, so there are no standard errors.
    """

    snippets: PositiveCount
    snippet_chars: PositiveCount = 512
    order: Literal["sequential", "seeded"] = "sequential"
    """Choice of the snippets.

    - `sequential`: the first snippets of the corpus, one after the other.
    - `seeded`: snippets whose starts are multiples of `snippet_chars`, drawn without replacement by random.Random(0).
    """
    max_tokens: PositiveCount | None = None
    """Maximum number of tokens per snippet; None = all tokens of a text, and 128 tokens of random tokens."""

    @property
    def forwarded_tokens(self) -> int:
        """Number of tokens that pass through the model for one cell; without a maximum, four characters count as one
        token."""
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
    """Return the built-in recipe with the label `name@version`; raise UsageError for any other label."""
    if label not in BUILT_IN_RECIPES:
        found = f"no such recipe{suggest(label, list(BUILT_IN_RECIPES))}"
        raise UsageError(f"recipe {label!r}", found, "Write the label of a built-in recipe, or the fields of a recipe")
    return BUILT_IN_RECIPES[label]
