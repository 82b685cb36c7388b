"""One checkpoint, here and now: the body of `shapelake measure`, without a driver."""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipeline.catalog import discovery, local_histories
from pipeline.catalog.fetch import fetch_temporarily
from pipeline.corpora import resolve_corpus
from pipeline.errors import UsageError
from pipeline.lake import Lake, to_table
from pipeline.recipe import RECIPE_ADAPTER, ContextRecipe, SnippetRecipe, built_in_recipe
from pipeline.spec import Cell, Checkpoint, Corpus, Hub, Resources
from pipeline.strict_model import format_first_error, suggest
from pipeline.sweep.config import merge_overrides, parse_yaml


def measure_checkpoint(
    name: str, corpus: str, recipe: str, tokenizer: str | None, kind: str | None, lake: str | None, sets: list[str]
) -> list[dict[str, Any]]:
    """Rows of one checkpoint, of every profile it has or of `kind` alone; committed to `lake` where one is given.

    A cell that the lake has is measured and returned all the same, and stays there as it is.

    Args:
        name: a folder, or REPO@REVISION on the Hub.
    """
    checkpoint = _find_checkpoint(name, tokenizer)
    asked, resources = parse_recipe(recipe), parse_resources(sets)
    opened_lake = None if lake is None else Lake(lake)
    if opened_lake is not None:
        opened_lake.check_recipe(asked)
        checkpoint = _with_lake_label(opened_lake, checkpoint)
    cells = [
        Cell(checkpoint=checkpoint, kind=profile, corpus=parse_corpus(corpus), recipe=asked)
        for profile in _profiles(checkpoint, kind)
    ]
    rows = []
    for cell, measured in measure_cells(cells, resources):
        if opened_lake is not None:
            commit_cell(opened_lake, cell, measured)
        rows += measured
    return rows


def measure_cells(cells: Sequence[Cell], resources: Resources) -> Iterator[tuple[Cell, list[dict[str, Any]]]]:
    """The rows of each cell of one checkpoint, which is fetched where need be and loaded once."""
    from pipeline import measure

    first = cells[0]
    with fetch_temporarily(first.checkpoint, f"here-{os.getpid()}", resources.scratch_bytes) as checkpoint:
        opened = measure.load_checkpoint(checkpoint, first.recipe, resources)
        for cell in cells:
            yield cell, measure.measure(cell, opened, resources.batch_tokens)


def _find_checkpoint(name: str, tokenizer: str | None) -> Checkpoint:
    """The folder of that name, else the revision of a repo."""
    repo, _, revision = name.partition("@")
    if Path(name).exists() or not re.fullmatch(r"[\w-]+/[\w.-]+", repo):
        return local_histories.inspect_checkpoint(Path(name).resolve(), tokenizer and str(Path(tokenizer).resolve()))
    return discovery.resolve_checkpoint(Hub(hub=repo, tokenizer=tokenizer), revision or "main")


def _with_lake_label(lake: Lake, checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint as a label of the lake describes it: a sweep may know its family, or another name of its model."""
    current = [named.label for named in lake.labels() if not named.superseded]
    known = {label.name: label for label in current if label.content == checkpoint.content}
    if not known:
        return checkpoint
    label = known.get(checkpoint.label) or next(iter(known.values()))
    return checkpoint.model_copy(update=label.model_dump(exclude={"content", "seen_at"}))


def commit_cell(lake: Lake, cell: Cell, rows: list[dict[str, Any]]) -> None:
    """Commit the cell unless it is there, and end its quarantine if a failure was the reason: it did not fail now."""
    from pipeline.provenance import file_metadata

    lake.record_recipe(cell.recipe)
    lake.record_labels([cell.checkpoint])
    if cell.id not in lake.committed_cell_ids():
        lake.commit(cell.id, cell.checkpoint.model_key, to_table(rows, file_metadata(cell.recipe)))
    if any(stone.cell_id == cell.id and stone.failure for stone in lake.tombstones()):
        lake.release(cell.id)


def _profiles(checkpoint: Checkpoint, kind: str | None) -> tuple[Any, ...]:
    if kind is None:
        return checkpoint.kinds or ("decoder",)
    if kind not in checkpoint.kinds:
        raise UsageError(
            f"--kind {kind}", f"{checkpoint.label} has {', '.join(checkpoint.kinds)}", "Choose one of these"
        )
    return (kind,)


def parse_corpus(text: str) -> Corpus:
    """The corpus written KIND[:PATH], resolved."""
    try:
        corpus = Corpus.model_validate(text)
    except ValidationError as error:
        raise UsageError(f"--corpus {text}", format_first_error(error), "Write KIND or KIND:PATH") from error
    return resolve_corpus(corpus)


def parse_recipe(text: str) -> ContextRecipe | SnippetRecipe:
    """The built-in recipe of that name, or one given by its fields."""
    fields = parse_yaml(f"--recipe {text}", text)
    if not isinstance(fields, dict):
        return built_in_recipe(text)
    try:
        return RECIPE_ADAPTER.validate_python(fields)
    except ValidationError as error:
        raise UsageError(f"--recipe {text}", format_first_error(error), "Correct its fields") from error


def parse_resources(sets: list[str]) -> Resources:
    """The defaults with each resources.key=value put in."""
    fields = merge_overrides({"resources": {}}, sets)
    if set(fields) != {"resources"}:
        wrong = (set(fields) - {"resources"}).pop()
        raise UsageError(f"--set {wrong}", f"not a field of measure{suggest(wrong, ['resources'])}", "Set resources.*")
    try:
        return Resources.model_validate(fields["resources"])
    except ValidationError as error:
        raise UsageError("--set resources", format_first_error(error), "Correct it") from error
