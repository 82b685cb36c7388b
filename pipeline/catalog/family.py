"""Schema of a catalogue entry: where a model family publishes its checkpoints, and how to parse their names."""

import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from functools import cached_property
from itertools import product
from string import Formatter
from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from pipeline.catalog.architectures import Norm
from pipeline.catalog.revision_names import SORTS_LAST, TrainingPoint, is_ignored_name, parse_groups, run_sort_key
from pipeline.strict_model import StrictModel, suggest

NAME_GROUPS = {"step", "kilo", "tokens", "position", "unit", "stage", "run"}

Where = Literal["branches", "tags", "branches-and-tags", "repos", "subfolders", "final"]
Tier = Literal["small", "medium", "large"]


class Stage(StrictModel):
    """Training stage of a family: which revisions belong to it, and how their steps convert to tokens."""

    name: str | None = None
    """Name of the stage in revision names; null for the stage of revisions whose names state no stage."""
    repos: str = "*"
    """Glob over repo ids; the stage applies to the repos that match."""
    tokens_per_step: Annotated[int, Field(gt=0)] | None = None
    """Batch size in tokens; null if the publisher does not state it or it changes within the stage."""
    tokens_before: Annotated[int, Field(ge=0)] | None = 0
    """Tokens of all preceding stages, if the names of this stage count from zero again; 0 if they count on. Null if
    unknown; the tokens of the stage's checkpoints are then null."""


class KnownBad(StrictModel):
    """Known issue: published revisions whose weights are missing or do not match the revision's name."""

    repo: str = "*"
    """Glob over the ids of the affected repos."""
    rev: re.Pattern[str]
    """Regex that the whole name of an affected revision matches."""
    why: str
    source: str
    equal_to: re.Pattern[str] | None = None
    """Regex of other revision names. The issue is reported only if a revision with such a name has the same weights as
    the affected revision."""
    no_weights: bool = False
    """True if the issue is that weights are missing. It is reported only if the listing has no weights of the
    revision."""

    @property
    def shows_in_listing(self) -> bool:
        """True if a Hub listing can confirm the issue."""
        return self.no_weights or self.equal_to is not None

    @property
    def description(self) -> str:
        """Text for messages: what is wrong, and the source in parentheses."""
        return f"{self.why} ({self.source})"


class Example(StrictModel):
    """Expected result of parsing one checkpoint name; the tests parse the examples of every catalogue entry."""

    repo: str | None = None
    """Repo id of the checkpoint; null = the first repo of the family."""
    step: int | None = None
    tokens: int | None = None
    position: int | None = None
    stage: str | None = None
    run: str | None = None


class Family(StrictModel):
    """One entry of the catalogue."""

    is_generic: ClassVar[bool] = False
    """True for the rule for repos outside the catalogue."""

    name: str
    ids: Annotated[tuple[str, ...], Field(min_length=1)]
    """Templates of the repo ids. A {placeholder} stands for each of its values in `vars`; a * stands for any text, and
    only a Hub listing can tell which of these repos exist."""
    vars: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Values by placeholder; the value of {run} is also the name of the run that the repo's checkpoints belong to."""
    aliases: tuple[str, ...] = ()
    """Templates of other ids of the same repos. A user may give such an id, but it appears in no list of repos."""
    where: Where
    rev: re.Pattern[str] = re.compile("main")
    """Regex that a whole checkpoint name must match, with groups of NAME_GROUPS. The name is that of a branch, tag or
    subfolder or, for `where: repos`, the repo id without its owner."""
    skip: re.Pattern[str] | None = None
    """Regex of names that are not checkpoints. In every family, main, refs/*, pr/N, versions such as v1.0, and commits
    are not checkpoints either, unless `rev` matches them."""
    position: str | None = None
    """Unit of the number in the group `position` of `rev`, such as words; null if `rev` has no such group."""
    stages: Annotated[tuple[Stage, ...], Field(min_length=1)] = (Stage(),)
    """Stages in training order. Several entries may describe one stage; the first one whose `repos` matches applies."""
    model: str | None = None
    """Template of the model name for `where: repos`, where each repo is one checkpoint of the model; null = the model
    has the name of the repo."""
    tokenizer: str | None = None
    """Template of the repo id of the tokenizer; null = each checkpoint has its own tokenizer files."""
    weights: Literal["safetensors", "bin"] = "safetensors"
    """`bin`: if a commit has no safetensors, pickles are read, with `torch.load(weights_only=True)`. `safetensors`:
    pickles are never read."""
    kind: Literal["decoder", "encoder", "encdec", "by-config"]
    norm: Norm = "unknown"
    tiers: dict[str, Tier]
    """Size class by glob over repo ids; the first glob that matches applies. A model is small up to 0.5B parameters,
    medium up to 2B, and large above."""
    gated: bool = False
    unloadable: str | None = None
    """Reason why the family cannot be measured; null = the family can be measured."""
    known_bad: tuple[KnownBad, ...] = ()
    source: str
    """URL of a description of the history, by the publisher or, if there is none, by another party."""
    examples: Annotated[dict[str, Example], Field(min_length=1)]

    @field_validator("rev")
    @classmethod
    def _has_known_groups(cls, rev: re.Pattern[str]) -> re.Pattern[str]:
        for group in rev.groupindex.keys() - NAME_GROUPS:
            raise ValueError(f"unknown group {group!r}{suggest(group, sorted(NAME_GROUPS))}")
        return rev

    @field_validator("tiers")
    @classmethod
    def _covers_every_repo(cls, tiers: dict[str, Tier]) -> dict[str, Tier]:
        if "*" not in tiers:
            raise ValueError("tiers lacks the entry '*', the default for repos that it does not list")
        return tiers

    @model_validator(mode="after")
    def _fills_its_placeholders(self) -> "Family":
        for template in (*self.ids, *self.aliases, self.model or "", self.tokenizer or ""):
            for unknown in _placeholders(template) - self.vars.keys():
                raise ValueError(f"vars has no {unknown!r}, which {template} needs")
        return self

    @cached_property
    def expanded_ids(self) -> tuple[str, ...]:
        """All repo ids of the family; each * remains, because only a Hub listing can expand it."""
        return tuple(repo for template in self.ids for repo in _expand_template(template, self.vars))

    @property
    def repo_patterns(self) -> tuple[str, ...]:
        """Patterns with * among `expanded_ids`; only a Hub listing can expand them."""
        return tuple(repo for repo in self.expanded_ids if "*" in repo)

    def list_repos(self, glob: str = "*") -> tuple[str, ...]:
        """Return the repo ids that match `glob`, with or without their owner; ids with a * are left out."""
        repos = (repo for repo in self.expanded_ids if "*" not in repo)
        return tuple(repo for repo in repos if fnmatchcase(repo, glob) or fnmatchcase(repo.split("/")[-1], glob))

    def claims(self, repo: str) -> bool:
        """Return True if `repo` belongs to the family; case-sensitive."""
        return self._values(repo) is not None

    def parse_name(self, repo: str, name: str) -> TrainingPoint | None:
        """Return the training point of the checkpoint `name` of `repo`.

        The result is None if the name does not match `rev`, or if it states a stage that the family does not list.

        Args:
            name: branch, tag, subfolder or, for `where: repos`, the repo id, with or without its owner.
        """
        match = self.rev.fullmatch(name.split("/")[-1] if self.where == "repos" else name)
        point = parse_groups(match.groupdict()) if match else None
        stage = self._stage(repo, point.stage) if point else None
        if point is None or stage is None:
            return None
        run = point.run or (self._values(repo) or {}).get("run")
        return _with_tokens(point._replace(run=run), stage)

    def sort_key(self, point: TrainingPoint) -> tuple:
        """Return the key that sorts the points of one history by run, then stage, then step, then tokens or
        `position`."""
        stages = list(dict.fromkeys(stage.name for stage in self.stages))
        rank = stages.index(point.stage) if point.stage in stages else SORTS_LAST
        return (run_sort_key(point.run), rank, *point.sort_key_in_stage)

    def skips(self, name: str) -> bool:
        """Return True if `name` is known not to be a checkpoint; the audit reports no such name as unparsed."""
        if self.rev.fullmatch(name):
            return False
        return is_ignored_name(name) or (self.skip is not None and self.skip.fullmatch(name) is not None)

    def model_of(self, repo: str) -> str:
        """Return the name of the model whose history, or single checkpoint, is in `repo`."""
        return self._fill_template(self.model, repo) or repo

    def tokenizer_for(self, repo: str) -> str | None:
        """Return the repo of the tokenizer; None if each checkpoint has its own tokenizer files."""
        return self._fill_template(self.tokenizer, repo)

    def tier_of(self, repo: str) -> Tier:
        """Return the size class of the model."""
        return next(tier for glob, tier in self.tiers.items() if fnmatchcase(repo, glob))

    def known_bad_for(self, repo: str, rev: str) -> tuple[KnownBad, ...]:
        """Return the known issues of a revision, including issues that may have been fixed on the Hub since."""
        return tuple(bad for bad in self.known_bad if fnmatchcase(repo, bad.repo) and bad.rev.fullmatch(rev))

    @cached_property
    def _id_patterns(self) -> tuple[re.Pattern[str], ...]:
        return tuple(_compile_template(template, self.vars) for template in (*self.ids, *self.aliases))

    def _stage(self, repo: str, name: str | None) -> Stage | None:
        return next((stage for stage in self.stages if stage.name == name and fnmatchcase(repo, stage.repos)), None)

    def _values(self, repo: str) -> dict[str, str] | None:
        """Return the placeholder values in `repo`; None if `repo` does not belong to the family."""
        matches = (pattern.fullmatch(repo) for pattern in self._id_patterns)
        return next((match.groupdict() for match in matches if match), None)

    def _fill_template(self, template: str | None, repo: str) -> str | None:
        values = self._values(repo)
        return template.format(**values) if template and values is not None else None


def _with_tokens(point: TrainingPoint, stage: Stage) -> TrainingPoint:
    """Return `point` with its tokens counted from the start of training; its `tokens` are None if unknown."""
    before = stage.tokens_before
    if before is None:
        return point._replace(tokens=None, tokens_source=None)
    if point.tokens is not None:
        return point._replace(tokens=before + point.tokens)
    if point.step is None or stage.tokens_per_step is None:
        return point
    return point._replace(tokens=before + point.step * stage.tokens_per_step, tokens_source="step-times-batch")


def _placeholders(template: str) -> set[str]:
    return {field for _, field, _, _ in Formatter().parse(template) if field}


def _expand_template(template: str, values: Mapping[str, tuple[str, ...]]) -> list[str]:
    """Return `template` filled in once for every combination of the values of its placeholders."""
    names = [name for name in values if name in _placeholders(template)]
    combinations = product(*(values[name] for name in names))
    return [template.format(**dict(zip(names, combination, strict=True))) for combination in combinations]


def _compile_template(template: str, values: Mapping[str, tuple[str, ...]]) -> re.Pattern[str]:
    """Compile `template` to a regex of repo ids, with one group per placeholder; * matches anything but a slash."""
    parts = []
    for literal, name, _, _ in Formatter().parse(template):
        parts.append(re.escape(literal).replace(r"\*", "[^/]*"))
        if name:
            parts.append(f"(?P<{name}>{'|'.join(map(re.escape, values[name]))})")
    return re.compile("".join(parts))
