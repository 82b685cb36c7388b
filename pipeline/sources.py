"""Sources of a sweep's checkpoints: a local folder, a Hub repo, or the members of a family."""

import re
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from pydantic import field_validator

from pipeline.strict_model import StrictModel, suggest

REPO_REVISION = re.compile(r"(?P<repo>[\w-][\w.-]*(/[\w-][\w.-]*)?)(@(?P<revision>[^@]+))?")
"""Regex of the name of a Hub repo with or without a revision; a path that begins with a dot, / or ~ does not match."""
PATTERN_GROUPS = {"step": "", "kilo": "", "tokens": "", "unit": "", "stage": "", "run": ""}.keys()
"""Names of the groups that a pattern may have. If `kilo` matches, the step is multiplied by 1,000; `unit`, which is one
of k, m, b and t, multiplies the tokens."""


class Local(StrictModel):
    """History of one model in a local folder. Its subfolders are checkpoints, or the folder itself is one
    checkpoint."""

    local: str
    """Path of the folder; checkpoints have the format of Hugging Face."""
    model: str | None = None
    """Name of the model in the lake; None = the folder's name."""
    family: str | None = None
    tokenizer: str | None = None
    """Folder of the tokenizer files; None = each checkpoint has its own."""
    pattern: str | None = None
    """Regular expression that reads the names of the subfolders, with a group `step` or `tokens`; None = the names have
    a form that `catalog.revision_names` knows."""
    base: str | None = None
    """Model into which LoRA adapters in the folder are merged: a folder, or REPO@REVISION on the Hub."""

    @field_validator("pattern")
    @classmethod
    def _has_known_groups(cls, pattern: str | None) -> str | None:
        try:
            groups = re.compile(pattern or "").groupindex.keys()
        except (re.error, OverflowError, RecursionError) as error:
            raise ValueError(f"{pattern!r} is not a regular expression ({error})") from error
        if pattern is not None and not groups & {"step", "tokens"}:
            raise ValueError(f"{pattern!r} has no group `step` or `tokens`; for example: 'ep[0-9]+-ba(?P<step>[0-9]+)'")
        if unknown := groups - PATTERN_GROUPS:
            raise ValueError(f"{pattern!r} has unknown groups {sorted(unknown)}; known: {', '.join(PATTERN_GROUPS)}")
        return pattern

    @property
    def name(self) -> str:
        return self.model or Path(self.local).resolve().name

    def resolve_paths(self, folder: Path) -> "Local":
        """Return a copy whose relative paths are resolved against `folder`; a `base` on the Hub stays as it is."""
        resolve = lambda path: path and str((folder / Path(path).expanduser()).resolve())  # noqa: E731
        paths = {"local": resolve(self.local), "tokenizer": resolve(self.tokenizer)}
        return self.model_copy(update={**paths, "base": _resolve_base(self.base, folder)})


def _resolve_base(name: str | None, folder: Path) -> str | None:
    """Return the absolute path of a base model, or its name unchanged if it is a repo on the Hub."""
    if name is None:
        return None
    path = (folder / Path(name).expanduser()).resolve()
    return str(path) if path.is_dir() or not REPO_REVISION.fullmatch(name) else name


class Hub(StrictModel):
    """History of one model in a Hugging Face Hub repo: its branches, tags or subfolders."""

    hub: str
    """Repo id, such as EleutherAI/pythia-70m."""
    model: str | None = None
    """Name of the model in the lake; None = the repo's canonical id."""
    tokenizer: str | None = None
    """Repo or folder of the tokenizer; None = the repo that the catalogue names or, if it names none, the files of each
    checkpoint."""
    base: str | None = None
    """Model into which LoRA adapters in the repo are merged: a folder, or REPO@REVISION on the Hub."""

    @property
    def name(self) -> str:
        return self.model or self.hub

    def resolve_paths(self, folder: Path) -> "Hub":
        """Return a copy whose `tokenizer` and `base` are absolute paths if they name folders.

        A relative path is resolved against `folder`. If there is no such folder, the name of a repo stays as it is.
        """
        path = (folder / Path(self.tokenizer).expanduser()).resolve() if self.tokenizer else None
        tokenizer = str(path) if path and path.is_dir() else self.tokenizer
        return self.model_copy(update={"tokenizer": tokenizer, "base": _resolve_base(self.base, folder)})


class Members(StrictModel):
    """Histories of one family of the catalogue."""

    family: str
    models: str = "*"
    """Glob over repo ids; a repo is chosen if its id matches with or without the owner."""

    @property
    def name(self) -> str:
        return self.family

    def resolve_paths(self, folder: Path) -> "Members":
        return self


CheckpointSource = Local | Hub | Members
SOURCE_TYPES: dict[str, type[Local] | type[Hub] | type[Members]] = {"local": Local, "hub": Hub, "family": Members}
"""Source class by the field that it requires. `local` comes first, because a local source may also have `family`."""


def matches_model(model: str, glob: str) -> bool:
    """Return True if the model's name, with or without its owner, matches `glob` (case-sensitive)."""
    return fnmatchcase(model, glob) or fnmatchcase(model.split("/")[-1], glob)


def parse_source(value: Any) -> Any:
    """Return the source that the fields in `value` describe, as an instance of one of SOURCE_TYPES.

    The class is chosen by its required field before the other fields are checked, so that an error message lists only
    the fields of this class.
    """
    if isinstance(value, Local | Hub | Members):
        return value
    if not isinstance(value, dict):
        raise ValueError(f"{value!r} is not a source: write {{hub: REPO}}, {{family: NAME}} or {{local: PATH}}")
    for field, kind in SOURCE_TYPES.items():
        if field in value:
            return kind.model_validate(value)
    wrong = next(iter(value), "")
    raise ValueError(f"{wrong!r} is not a kind of source{suggest(str(wrong), list(SOURCE_TYPES))}")
