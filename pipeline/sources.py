"""Sources of a sweep's checkpoints: a local folder, a Hub repo, or the members of a family."""

import re
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from pydantic import field_validator

from pipeline.strict_model import StrictModel, suggest

REPO_REVISION = re.compile(r"(?P<repo>[\w-][\w.-]*(/[\w-][\w.-]*)?)(@(?P<revision>[^@]+))?")
"""Name of a Hub repo, with or without a revision; a path that begins with a dot, / or ~ does not match."""
PATTERN_GROUPS = {"step": "", "kilo": "", "tokens": "", "unit": "", "stage": "", "run": ""}.keys()
"""Groups of a pattern; `kilo` multiplies the step by 1,000 if it matches, `unit` is k, m, b or t."""


class Local(StrictModel):
    """Folder whose subfolders are Hugging Face checkpoints, or one checkpoint."""

    local: str
    model: str | None = None
    """Name in the lake; None = the folder's name."""
    family: str | None = None
    tokenizer: str | None = None
    """Folder of the tokenizer files; None = the files of each checkpoint."""
    pattern: str | None = None
    """Regular expression for names of subfolders, with groups `step` or `tokens`; None = names of the known forms."""
    base: str | None = None
    """Model that LoRA adapters in the folder are merged into: a folder, or REPO@REVISION on the Hub."""

    @field_validator("pattern")
    @classmethod
    def _has_known_groups(cls, pattern: str | None) -> str | None:
        try:
            groups = re.compile(pattern or "").groupindex.keys()
        except (re.error, OverflowError, RecursionError) as error:
            raise ValueError(f"{pattern!r} is not a regular expression ({error})") from error
        if pattern is not None and not groups & {"step", "tokens"}:
            raise ValueError(f"{pattern!r} has no group `step` or `tokens`: see 'ep[0-9]+-ba(?P<step>[0-9]+)'")
        if unknown := groups - PATTERN_GROUPS:
            raise ValueError(f"{pattern!r} has unknown groups {sorted(unknown)}; known: {', '.join(PATTERN_GROUPS)}")
        return pattern

    @property
    def name(self) -> str:
        return self.model or Path(self.local).resolve().name

    def resolve_paths(self, folder: Path) -> "Local":
        """Return a copy with paths made absolute, relative to `folder`; a `base` that is a Hub repo stays a repo id."""
        resolve = lambda path: path and str((folder / Path(path).expanduser()).resolve())  # noqa: E731
        base = resolve(self.base)
        paths = {"local": resolve(self.local), "tokenizer": resolve(self.tokenizer)}
        is_path = base and (Path(base).is_dir() or not REPO_REVISION.fullmatch(str(self.base)))
        return self.model_copy(update={**paths, "base": base if is_path else self.base})


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
        """Return a copy whose tokenizer is an absolute path if it names a folder relative to `folder`.

        Otherwise the tokenizer stays a repo name.
        """
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
