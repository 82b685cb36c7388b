"""Sources of a sweep's checkpoints: a local folder, a Hub repo, or the members of a family."""

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from pipeline.strict_model import StrictModel, suggest


class Local(StrictModel):
    """Folder whose subfolders are Hugging Face checkpoints, or one checkpoint."""

    local: str
    model: str | None = None
    """Name in the lake; None = the folder's name."""
    family: str | None = None
    tokenizer: str | None = None
    """Folder of the tokenizer files; None = the files of each checkpoint."""

    @property
    def name(self) -> str:
        return self.model or Path(self.local).resolve().name

    def resolve_paths(self, folder: Path) -> "Local":
        """Return a copy whose relative paths are resolved against `folder`."""
        resolve = lambda path: path and str((folder / Path(path).expanduser()).resolve())  # noqa: E731
        return self.model_copy(update={"local": resolve(self.local), "tokenizer": resolve(self.tokenizer)})


class Hub(StrictModel):
    """History of one model in a Hugging Face Hub repo: its branches, tags or subfolders."""

    hub: str
    """Repo id, such as EleutherAI/pythia-70m."""
    model: str | None = None
    """Name in the lake; None = the repo's canonical id."""
    tokenizer: str | None = None
    """Repo or folder of the tokenizer; None = the catalogue's entry, else the files of each checkpoint."""

    @property
    def name(self) -> str:
        return self.model or self.hub

    def resolve_paths(self, folder: Path) -> "Hub":
        """Return a copy whose tokenizer, if a folder of that name exists, is resolved against `folder`."""
        path = (folder / Path(self.tokenizer).expanduser()).resolve() if self.tokenizer else None
        return self.model_copy(update={"tokenizer": str(path)}) if path and path.is_dir() else self


class Members(StrictModel):
    """Histories of one family of the catalogue."""

    family: str
    models: str = "*"
    """Glob matched against the repo ids, with and without the owner."""

    @property
    def name(self) -> str:
        return self.family

    def resolve_paths(self, folder: Path) -> "Members":
        return self


CheckpointSource = Local | Hub | Members
SOURCE_TYPES: dict[str, type[Local] | type[Hub] | type[Members]] = {"local": Local, "hub": Hub, "family": Members}
"""Source class by its required field. Order matters: in a local source `family` is an annotation."""


def matches_model(model: str, glob: str) -> bool:
    """Return True if the model's name, with or without its owner, matches `glob` (case-sensitive)."""
    return fnmatchcase(model, glob) or fnmatchcase(model.split("/")[-1], glob)


def parse_source(value: Any) -> Any:
    """Parse a source; its required field chooses the class first, so that an error names only that class's fields."""
    if isinstance(value, Local | Hub | Members):
        return value
    if not isinstance(value, dict):
        raise ValueError(f"{value!r} is not a source: write {{hub: REPO}}, {{family: NAME}} or {{local: PATH}}")
    for field, kind in SOURCE_TYPES.items():
        if field in value:
            return kind.model_validate(value)
    wrong = next(iter(value), "")
    raise ValueError(f"{wrong!r} is not a kind of source{suggest(str(wrong), list(SOURCE_TYPES))}")
