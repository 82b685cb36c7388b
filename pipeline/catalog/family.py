"""A published family of models: where it keeps its history and how its names state the place in training."""

import re
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from pipeline.catalog.architectures import Norm
from pipeline.catalog.repo_templates import compile_template, expand_template, placeholders
from pipeline.catalog.revision_names import SORTS_LAST, TrainingPoint, is_ignored_name, parse_groups, run_sort_key
from pipeline.strict_model import StrictModel, suggest

NAME_GROUPS = {"step", "kilo", "tokens", "position", "unit", "stage", "run"}

Where = Literal["branches", "tags", "branches-and-tags", "repos", "subfolders", "final"]
Tier = Literal["small", "medium", "large"]


class Stage(StrictModel):
    """A stretch of training with one batch size."""

    name: str | None = None
    """As revisions call it; null = those that name no stage."""
    repos: str = "*"
    """Glob over the repo ids it is true of."""
    tokens_per_step: Annotated[int, Field(gt=0)] | None = None
    """Null where the publisher does not state it, or where it changes within the stage."""
    tokens_before: Annotated[int, Field(ge=0)] | None = 0
    """Tokens of the stages before it, where it counts from zero again; null = unknown, and so are its tokens."""


class KnownBad(StrictModel):
    """Published revisions that are not what their names say."""

    repo: str = "*"
    """Glob over the repo ids."""
    rev: re.Pattern[str]
    """That the whole name must match."""
    why: str
    source: str
    equal_to: re.Pattern[str] | None = None
    """Of a fault that is equal weights: the names, one of which it is equal to. Told only where the digests agree."""
    no_weights: bool = False
    """Of a fault that is their absence. Told only where they are absent."""

    @property
    def shows_in_listing(self) -> bool:
        """Whether a listing of the Hub shows if it is still so."""
        return self.no_weights or self.equal_to is not None

    @property
    def description(self) -> str:
        """For people, with its source."""
        return f"{self.why} ({self.source})"


class Example(StrictModel):
    """What a name must parse to; the entry's own test."""

    repo: str | None = None
    """Null = the first of the family."""
    step: int | None = None
    tokens: int | None = None
    position: int | None = None
    stage: str | None = None
    run: str | None = None


class Family(StrictModel):
    """One entry of the table."""

    name: str
    ids: Annotated[tuple[str, ...], Field(min_length=1)]
    """Repo ids, with {placeholders} that `vars` fills in, or with * where they cannot be listed."""
    vars: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Values of each placeholder; that of {run} is the run of a repo's checkpoints."""
    aliases: tuple[str, ...] = ()
    """Other ids of the same repos, recognised but not listed."""
    where: Where
    rev: re.Pattern[str] = re.compile("main")
    """That a checkpoint's name must match whole: the branch, tag, sub-folder or, for `repos`, repo id."""
    skip: re.Pattern[str] | None = None
    """Names that are no point of the history, besides main, refs/*, pr/N, versions and commits."""
    position: str | None = None
    """What the group `position` of `rev` counts, where it has one."""
    stages: Annotated[tuple[Stage, ...], Field(min_length=1)] = (Stage(),)
    """In training order; of several rows for one stage the first that is true of the repo counts."""
    model: str | None = None
    """For `repos`: name of the model whose checkpoint a repo is; null = the repo id."""
    tokenizer: str | None = None
    """Repo of the tokenizer; null = each checkpoint's own files."""
    weights: Literal["safetensors", "bin"] = "safetensors"
    """bin = pickles are read, weights only, where a commit has no safetensors."""
    kind: Literal["decoder", "encoder", "encdec", "by-config"]
    norm: Norm = "unknown"
    tiers: dict[str, Tier]
    """Size by glob over the repo ids, the first that matches; small up to 0.5B parameters, medium up to 2B."""
    gated: bool = False
    unloadable: str | None = None
    """Why it cannot be measured; null = it can."""
    known_bad: tuple[KnownBad, ...] = ()
    source: str
    """Where the publisher describes the history; else who found it so."""
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
            raise ValueError("no tier for '*', that is for the rest")
        return tiers

    @model_validator(mode="after")
    def _fills_its_placeholders(self) -> "Family":
        for template in (*self.ids, *self.aliases, self.model or "", self.tokenizer or ""):
            for unknown in placeholders(template) - self.vars.keys():
                raise ValueError(f"vars has no {unknown!r}, which {template} needs")
        return self

    @property
    def is_generic(self) -> bool:
        """Whether this is the rule for repos that the table does not know."""
        return False

    @cached_property
    def expanded_ids(self) -> tuple[str, ...]:
        """Every repo id of the family; those with * are patterns and stay so."""
        return tuple(repo for template in self.ids for repo in expand_template(template, self.vars))

    @property
    def repo_patterns(self) -> tuple[str, ...]:
        """Those of `repos` that only a listing of the Hub can fill in."""
        return tuple(repo for repo in self.expanded_ids if "*" in repo)

    def list_repos(self, glob: str = "*") -> tuple[str, ...]:
        """Repo ids that match `glob`, with or without their owner; patterns are left out."""
        return tuple(
            repo
            for repo in self.expanded_ids
            if "*" not in repo and (fnmatchcase(repo, glob) or fnmatchcase(repo.split("/")[-1], glob))
        )

    def claims(self, repo: str) -> bool:
        """Whether `repo` is one of the family; case counts."""
        return self._values(repo) is not None

    def parse_name(self, repo: str, name: str) -> TrainingPoint | None:
        """Where in training the checkpoint `name` of `repo` stands; None if the name does not say.

        Args:
            name: branch, tag, sub-folder or, for `where: repos`, the repo id, with or without its owner.
        """
        match = self.rev.fullmatch(name.split("/")[-1] if self.where == "repos" else name)
        if match is None:
            return None
        said = parse_groups(match.groupdict())
        stage = self._stage(repo, said.stage) if said else None
        if said is None or stage is None:
            return None
        run = said.run or (self._values(repo) or {}).get("run")
        return _with_tokens(said._replace(run=run), stage)

    def sort_key(self, place: TrainingPoint) -> tuple:
        """Sorts the places of one history in training order: run, stage, step or tokens."""
        return (run_sort_key(place.run), self._ranks.get(place.stage, SORTS_LAST), *place.sort_key_in_stage)

    def skips(self, name: str) -> bool:
        """Whether `name` is no point of the history and nothing to report."""
        if self.rev.fullmatch(name):
            return False
        return is_ignored_name(name) or (self.skip is not None and self.skip.fullmatch(name) is not None)

    def model_of(self, repo: str) -> str:
        """Name of the model whose history, or whose one checkpoint, `repo` holds."""
        return self._filled(self.model, repo) or repo

    def tokenizer_for(self, repo: str) -> str | None:
        """Repo of the tokenizer; None = each checkpoint's own files."""
        return self._filled(self.tokenizer, repo)

    def tier_of(self, repo: str) -> Tier:
        """How large the model is."""
        return next(tier for glob, tier in self.tiers.items() if fnmatchcase(repo, glob))

    def known_bad_for(self, repo: str, rev: str) -> tuple[KnownBad, ...]:
        """What is known to be wrong with a revision; listings may show that it no longer is."""
        return tuple(bad for bad in self.known_bad if fnmatchcase(repo, bad.repo) and bad.rev.fullmatch(rev))

    @cached_property
    def _ranks(self) -> dict[str | None, int]:
        return {name: rank for rank, name in enumerate(dict.fromkeys(stage.name for stage in self.stages))}

    @cached_property
    def _id_patterns(self) -> tuple[re.Pattern[str], ...]:
        return tuple(compile_template(template, self.vars) for template in (*self.ids, *self.aliases))

    def _stage(self, repo: str, name: str | None) -> Stage | None:
        of_that_name = [stage for stage in self.stages if stage.name == name]
        return next((stage for stage in of_that_name if fnmatchcase(repo, stage.repos)), None)

    def _values(self, repo: str) -> dict[str, str] | None:
        """The placeholders' values in `repo`; None if it is not of the family."""
        matches = (one.fullmatch(repo) for one in self._id_patterns)
        return next((match.groupdict() for match in matches if match), None)

    def _filled(self, template: str | None, repo: str) -> str | None:
        values = self._values(repo)
        return template.format(**values) if template and values is not None else None


def _with_tokens(place: TrainingPoint, stage: Stage) -> TrainingPoint:
    """`place` with its tokens counted from the start of training; null where they cannot be known."""
    before = stage.tokens_before
    if before is None:
        return place._replace(tokens=None, tokens_source=None)
    if place.tokens is not None:
        return place._replace(tokens=before + place.tokens)
    if place.step is None or stage.tokens_per_step is None:
        return place
    return place._replace(tokens=before + place.step * stage.tokens_per_step, tokens_source="step-times-batch")
