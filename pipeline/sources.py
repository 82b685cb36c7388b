"""Where a sweep's checkpoints come from: a local folder, a repo of the Hub, or the members of a family."""

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from pipeline.strict_model import StrictModel, suggest


class Local(StrictModel):
    """A folder whose sub-folders are HF checkpoints, or one checkpoint."""

    local: str
    model: str | None = None
    """Name in the lake; null = the folder's name."""
    family: str | None = None
    tokenizer: str | None = None
    """Folder of the tokenizer files; null = each checkpoint's own."""

    @property
    def name(self) -> str:
        return self.model or Path(self.local).resolve().name

    def resolve_paths(self, folder: Path) -> "Local":
        """The same with relative paths taken from `folder`."""
        place = lambda path: path and str((folder / Path(path).expanduser()).resolve())  # noqa: E731
        return self.model_copy(update={"local": place(self.local), "tokenizer": place(self.tokenizer)})


class Hub(StrictModel):
    """The history of one model in a repo of the Hugging Face Hub: its branches, tags or sub-folders."""

    hub: str
    """Repo id, such as EleutherAI/pythia-70m."""
    model: str | None = None
    """Name in the lake; null = the repo's canonical id."""
    tokenizer: str | None = None
    """Repo or folder of the tokenizer; null = as the catalogue says, else each checkpoint's own."""

    @property
    def name(self) -> str:
        return self.model or self.hub

    def resolve_paths(self, folder: Path) -> "Hub":
        """The same with a tokenizer folder, where there is one of that name, taken from `folder`."""
        place = (folder / Path(self.tokenizer).expanduser()).resolve() if self.tokenizer else None
        return self.model_copy(update={"tokenizer": str(place)}) if place and place.is_dir() else self


class Members(StrictModel):
    """The histories of a family of the catalogue."""

    family: str
    models: str = "*"
    """Glob over the repo ids, with or without their owner."""

    @property
    def name(self) -> str:
        return self.family

    def resolve_paths(self, folder: Path) -> "Members":
        return self


CheckpointSource = Local | Hub | Members
SOURCE_TYPES: dict[str, type[Local] | type[Hub] | type[Members]] = {"local": Local, "hub": Hub, "family": Members}
"""By the field that each must have; of a local history `family` is only a remark."""


def matches_model(model: str, glob: str) -> bool:
    """Whether the name of a model, with or without its owner, matches `glob`; case counts."""
    return fnmatchcase(model, glob) or fnmatchcase(model.split("/")[-1], glob)


def parse_source(one: Any) -> Any:
    """The source that `one` describes, by its fields, so that a mistake is told in the terms of that kind."""
    if isinstance(one, Local | Hub | Members):
        return one
    if not isinstance(one, dict):
        raise ValueError(
            f"{one!r} is no source of checkpoints: write {{hub: REPO}}, {{family: NAME}} or {{local: PATH}}"
        )
    for field, kind in SOURCE_TYPES.items():
        if field in one:
            return kind.model_validate(one)
    wrong = next(iter(one), "")
    raise ValueError(f"{wrong!r} is no source of checkpoints{suggest(str(wrong), list(SOURCE_TYPES))}")
