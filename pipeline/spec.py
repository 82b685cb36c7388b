"""Core types: Checkpoint, Corpus, Recipe, Resources, Sweep and Cell, and the identity of a cell."""

import os
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from pipeline.corpus import Corpus
from pipeline.recipe import BUILT_IN_RECIPES, AnyRecipe, ContextRecipe, Recipe, SnippetRecipe, built_in_recipe
from pipeline.similarity.settings import Similarity
from pipeline.sources import CheckpointSource, Hub, Local, Members, parse_source
from pipeline.strict_model import SafeRelativePath, StrictModel, digest_json

__all__ = [
    "ALGORITHMS",
    "Cell",
    "Checkpoint",
    "CheckpointSource",
    "ContextRecipe",
    "Corpus",
    "Hub",
    "HubFile",
    "Local",
    "Members",
    "ModelKind",
    "Recipe",
    "RemoteFiles",
    "Resources",
    "Similarity",
    "SnippetRecipe",
    "Sweep",
    "algorithm_number",
    "built_in_recipe",
]

ALGORITHMS: dict[str, int] = {
    **{"cleaning": 1, "sampling": 1, "capture": 2, "loss": 3},
    **{"counts": 2, "anisotropy": 5, "spectrum": 4, "norms": 4, "dimension": 3, "linearity": 4, "surrogate": 3},
}
"""Version of each group of metrics, raised by hand when a change of the code changes its numbers. `cleaning` is the
version of the rules that turn enwik8 into prose."""

ModelKind = Literal["decoder", "encoder", "encdec-encoder", "encdec-decoder"]


def algorithm_number() -> int:
    """Return the sum of the versions in ALGORITHMS, which grows whenever one of them is raised."""
    return sum(ALGORITHMS.values())


class HubFile(StrictModel):
    """File of a Hub repo: path in the repo, size in bytes, and the sha256 that a download must have."""

    path: SafeRelativePath
    size: int
    sha256: str


class RemoteFiles(StrictModel):
    """Files on the Hub at one immutable commit."""

    repo: str
    """Canonical repo id."""
    commit: str
    files: tuple[HubFile, ...]
    subfolder: SafeRelativePath | Literal[""] = ""
    """Folder of the repo that holds the files; the paths in `files` are relative to it."""

    @property
    def total_bytes(self) -> int:
        return sum(file.size for file in self.files)


class Checkpoint(StrictModel):
    """Weights at one point of one training run: location of the files, and their digests.

    A digest is the sha256 over the sorted (file name, sha256 of the file) pairs of the files that it covers.
    """

    model: str
    """Hub repo id, or the local folder's name."""
    revision: str
    """Name of the branch, tag, commit or folder."""
    path: str
    """Folder with config.json and the weights; empty if they are on the Hub and not fetched yet."""
    tokenizer_path: str
    """Folder with the tokenizer files: `path`, unless the sweep names another tokenizer."""
    remote: RemoteFiles | None = None
    """Files on the Hub that a download puts into `path`; None for a local checkpoint."""
    tokenizer_remote: RemoteFiles | None = None
    """Files on the Hub that a download puts into `tokenizer_path`; None if the tokenizer is local or part of
    `remote`."""
    base_path: str = ""
    """Folder of the base model, if `path` has only a LoRA adapter; else empty, also if the base is not fetched yet."""
    base_remote: RemoteFiles | None = None
    """Files on the Hub that a download puts into `base_path`; None if there is no base model or it is local."""
    kinds: tuple[ModelKind, ...]
    """Kinds of the model's layer stacks: one, or two for an encoder-decoder; empty if config.json does not tell
    them."""
    weights_digest: str
    config_digest: str
    tokenizer_digest: str
    family: str | None = None
    commit_sha: str | None = None
    step: int | None = None
    tokens_seen: int | None = None
    tokens_source: str | None = None
    stage: str | None = None
    run: str | None = None
    n_params: int | None = None
    """Number of parameters, estimated from the size of the weight files; only the cost of a plan is based on it."""
    n_blocks: int | None = None
    """Number of blocks that config.json states; only the cost of a plan is based on it."""

    @property
    def label(self) -> str:
        return f"{self.model}@{self.revision}"

    @property
    def download_bytes(self) -> int:
        """Number of bytes to download; 0 for a local folder."""
        return sum(remote.total_bytes for remote in self.remotes)

    @property
    def remotes(self) -> tuple[RemoteFiles, ...]:
        """Files to fetch from the Hub; empty for a checkpoint of local files alone."""
        return tuple(filter(None, (self.remote, self.tokenizer_remote, self.base_remote)))

    @property
    def is_adapter(self) -> bool:
        """True for a LoRA adapter that is merged into a base model."""
        return bool(self.base_path or self.base_remote)

    @property
    def model_key(self) -> str:
        """Partition key in the lake: the model's name with path-unsafe characters replaced."""
        safe = "".join(c if c.isalnum() or c in "._-" else "-" for c in self.model.replace("/", "--"))
        return safe.lstrip(".") or "-"

    @cached_property
    def content(self) -> str:
        """Digest of weights, config and tokenizer. Labels with equal content share one measurement."""
        return digest_json([self.weights_digest, self.config_digest, self.tokenizer_digest])


class Resources(StrictModel):
    """Settings that never change a number: devices, batch size, timeouts."""

    gpus: Annotated[int, Field(ge=0)] = 0
    """Number of GPUs that a local run may use."""
    gpu_gb: Annotated[float, Field(gt=0)] | None = None
    """Memory of one GPU in GB. A task whose weights take more than 60 % of it gets several GPUs; null = always one
    GPU."""
    cpus: Annotated[int, Field(gt=0)] = Field(default_factory=lambda: os.cpu_count() or 1)
    """Number of CPUs that a local run may use, for all tasks together."""
    slots: Annotated[int, Field(gt=0)] | None = None
    """Number of tasks that run at the same time; null = one per GPU, or 1 without GPUs."""
    batch_tokens: Annotated[int, Field(gt=0)] = 8192
    """Tokens per forward pass on a GPU, at least one context; a CPU always takes 1024."""
    address: str = "local"
    """Address of Ray: local, auto or HOST:PORT. `local` starts Ray for this run."""
    timeout_s: Annotated[float, Field(gt=0)] = 7200.0
    """Seconds after which a running task is killed and counted as failed."""
    drain_s: Annotated[float, Field(ge=0)] = 300.0
    """Seconds that running tasks may take to finish after SIGTERM."""
    scratch_gb: Annotated[float, Field(gt=0)] | None = None
    """Disk space in GB for fetched checkpoints on a node; null = all free space."""
    prefetch: Annotated[int, Field(ge=0)] = 1
    """Number of checkpoints per slot that are fetched in advance, while others are measured."""

    @property
    def scratch_bytes(self) -> int | None:
        return None if self.scratch_gb is None else int(self.scratch_gb * 1e9)

    @property
    def gpu_bytes(self) -> int | None:
        return None if self.gpu_gb is None else int(self.gpu_gb * 1e9)

    @property
    def n_slots(self) -> int:
        return self.slots or max(self.gpus, 1)

    @model_validator(mode="after")
    def _a_gpu_per_slot(self) -> "Resources":
        if self.gpus and self.slots and self.slots > self.gpus:
            raise ValueError(
                f"{self.slots} slots on {self.gpus} gpus: a slot needs a GPU; set slots to {self.gpus} or less"
            )
        return self

    @property
    def threads(self) -> int:
        """CPU threads per task."""
        return max(self.cpus // self.n_slots, 1)


class Sweep(StrictModel):
    """Wanted cells (checkpoints x corpora x recipe) plus resources."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    checkpoints: Annotated[tuple[CheckpointSource, ...], Field(min_length=1)]
    corpora: Annotated[tuple[Corpus, ...], Field(min_length=1)]
    recipe: AnyRecipe
    resources: Resources = Resources()
    similarity: Similarity | None = None
    """Size of the similarity records that are made of every cell; null = no records. It is part of no cell id or
    recipe."""
    steps: str = "all"
    """Selection of training steps: all, log2, every:N, last, or steps separated by commas."""
    models: str = "*"
    """Glob over model names."""

    @field_validator("checkpoints", mode="before")
    @classmethod
    def _by_their_field(cls, value: Any) -> Any:
        return [parse_source(one) for one in value] if isinstance(value, list | tuple) else value

    @field_validator("recipe", mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        return built_in_recipe(value) if isinstance(value, str) else value

    @field_validator("recipe")
    @classmethod
    def _built_in_is_not_redefined(cls, recipe: Recipe) -> Recipe:
        known = BUILT_IN_RECIPES.get(recipe.label)
        if known is not None and recipe != known:
            raise ValueError(f"{recipe.label} is built in and cannot be changed: give the recipe a name of your own")
        return recipe

    def resolve_paths(self, folder: Path) -> "Sweep":
        """Return a copy of the sweep whose relative paths are resolved against `folder`."""
        absolute = lambda path: path and str((folder / Path(path).expanduser()).resolve())  # noqa: E731
        return self.model_copy(
            update={
                "checkpoints": tuple(source.resolve_paths(folder) for source in self.checkpoints),
                "corpora": tuple(c.model_copy(update={"path": absolute(c.path)}) for c in self.corpora),
            }
        )


@lru_cache(maxsize=64)
def _dump_recipe(recipe: Recipe) -> dict[str, Any]:
    """Return the fields of a recipe that are not equal to their defaults; cached, because a sweep has one recipe."""
    return recipe.model_dump(mode="json", exclude_defaults=True)


class Cell(StrictModel):
    """(checkpoint, layer stack, corpus, recipe): the unit of identity, completion and commit."""

    checkpoint: Checkpoint
    kind: ModelKind
    corpus: Corpus
    recipe: AnyRecipe

    @cached_property
    def id(self) -> str:
        """Digest of everything that may change a number: content, corpus, recipe, algorithm versions. Labels,
        devices and batch sizes are not part of it."""
        used = {"cleaning": self.corpus.kind == "enwik8", "surrogate": self.recipe.surrogate}
        unused = [name for name, is_used in used.items() if not is_used]
        return digest_json(
            {
                "weights": self.checkpoint.weights_digest,
                "config": self.checkpoint.config_digest,
                "tokenizer": self.checkpoint.tokenizer_digest,  # random tokens avoid its special and unused ids
                "kind": self.kind,
                "corpus": [self.corpus.id, self.corpus.sha256],
                "recipe": _dump_recipe(self.recipe),  # type: ignore[arg-type]  # frozen, so hashable
                "algorithms": {name: version for name, version in ALGORITHMS.items() if name not in unused},
            }
        )

    @property
    def name(self) -> str:
        """Name for display: model@revision, corpus and recipe, and also the kind if the model has two layer stacks."""
        kind = f" ({self.kind})" if len(self.checkpoint.kinds) > 1 else ""
        return f"{self.checkpoint.label} {self.corpus.id} {self.recipe.label}{kind}"
