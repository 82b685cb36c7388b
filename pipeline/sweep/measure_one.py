"""Measurement of one checkpoint in this process, without a driver: the body of `shapelake measure`."""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from pipeline.catalog import discovery, local_histories
from pipeline.catalog.fetch import fetch_temporarily
from pipeline.corpora import resolve_corpus
from pipeline.errors import UsageError
from pipeline.lake import Lake, to_table
from pipeline.recipe import RECIPE_ADAPTER, ContextRecipe, SnippetRecipe, built_in_recipe
from pipeline.spec import Cell, Checkpoint, Corpus, Hub, Resources, Similarity
from pipeline.strict_model import format_first_error, suggest
from pipeline.sweep.config import merge_overrides, parse_yaml

if TYPE_CHECKING:
    from pipeline.measure import Measurement


def measure_checkpoint(
    name: str,
    corpus: str,
    recipe: str,
    tokenizer: str | None,
    kind: str | None,
    lake: str | None,
    sets: list[str],
    base: str | None = None,
) -> list[dict[str, Any]]:
    """Measure one checkpoint and return its rows, one per layer; commit them if a lake is given.

    Every layer stack is measured, or only `kind` if it is given. A cell that the lake already has is measured and
    returned too, but its committed rows stay unchanged.

    Args:
        name: a folder, or REPO@REVISION on the Hub.
        base: folder or REPO@REVISION of the model into which an adapter is merged.
    """
    checkpoint = _find_checkpoint(name, tokenizer, base)
    parsed_recipe, resources = parse_recipe(recipe), parse_resources(sets)
    opened_lake = None if lake is None else Lake.writable(lake)
    if opened_lake is not None:
        opened_lake.check_recipe(parsed_recipe)
        checkpoint = _with_lake_label(opened_lake, checkpoint)
    source, kinds = parse_corpus(corpus), _kinds(checkpoint, kind)
    cells = [Cell(checkpoint=checkpoint, kind=kind, corpus=source, recipe=parsed_recipe) for kind in kinds]
    rows = []
    for cell, measured in measure_cells(cells, resources):
        if opened_lake is not None:
            commit_cell(opened_lake, cell, measured)
        rows += measured
    return rows


def measure_cells(cells: Sequence[Cell], resources: Resources) -> Iterator[tuple[Cell, list[dict[str, Any]]]]:
    """Yield each cell with its rows.

    All cells must be of one checkpoint, which is fetched if it is on the Hub, and loaded once.
    """
    for cell, measured in measure_with_records(cells, resources, None):
        yield cell, measured.rows


def measure_with_records(
    cells: Sequence[Cell], resources: Resources, similarity: Similarity | None
) -> "Iterator[tuple[Cell, Measurement]]":
    """Yield each cell with its rows and, unless `similarity` is None, its similarity records.

    All cells must be of one checkpoint, which is fetched and loaded as in `measure_cells`.
    """
    from pipeline.measure import measure_cell
    from pipeline.measurement.loaded_checkpoint import load_checkpoint

    first = cells[0]
    with fetch_temporarily(first.checkpoint, f"here-{os.getpid()}", resources.scratch_bytes) as checkpoint:
        loaded = load_checkpoint(checkpoint, first.recipe, resources)
        for cell in cells:
            measured = measure_cell(cell, loaded, resources.batch_tokens, similarity)
            loaded.require_same_files()
            yield cell, measured


def _find_checkpoint(name: str, tokenizer: str | None, base: str | None) -> Checkpoint:
    """Return the checkpoint in the folder `name` if this path exists, otherwise the one at REPO@REVISION on the Hub.

    A name that does not have the form of a repo is taken as a folder even if it does not exist.
    """
    repo, _, revision = name.partition("@")
    if Path(name).exists() or not re.fullmatch(r"[\w-]+/[\w.-]+", repo):
        folder = tokenizer and str(Path(tokenizer).resolve())
        return local_histories.inspect_checkpoint(
            Path(name).resolve(), folder, discovery.find_base(base) if base else None
        )
    return discovery.resolve_checkpoint(Hub(hub=repo, tokenizer=tokenizer, base=base), revision or "main")


def _with_lake_label(lake: Lake, checkpoint: Checkpoint) -> Checkpoint:
    """Return the checkpoint under a label that the lake has recorded for its content; unchanged if there is none.

    Model, revision, family and training point come from the label.
    """
    current = [named.label for named in lake.labels() if not named.superseded]
    known = {label.name: label for label in current if label.content == checkpoint.content}
    if not known:
        return checkpoint
    label = known.get(checkpoint.label) or next(iter(known.values()))
    return checkpoint.model_copy(update=label.model_dump(exclude={"content", "seen_at"}))


def commit_cell(lake: Lake, cell: Cell, rows: list[dict[str, Any]]) -> None:
    """Record the recipe and the label of a cell, and commit its rows unless the lake has the cell.

    If the cell was quarantined because of a failure, it is released.
    """
    from pipeline.measurement.provenance import file_metadata

    lake.record_recipe(cell.recipe)
    lake.record_labels([cell.checkpoint])
    if cell.id not in lake.committed_cell_ids():
        lake.commit(cell.id, cell.checkpoint.model_key, to_table(rows, file_metadata(cell.recipe)))
    if any(stone.cell_id == cell.id and stone.failure for stone in lake.tombstones()):
        lake.release(cell.id)


def _kinds(checkpoint: Checkpoint, kind: str | None) -> tuple[Any, ...]:
    if kind is None:
        return checkpoint.kinds or ("decoder",)
    if kind not in checkpoint.kinds:
        do = f"Write --kind {checkpoint.kinds[0]}" if checkpoint.kinds else "Leave --kind out"
        found = f"the kind of {checkpoint.label} is {' or '.join(checkpoint.kinds) or 'unknown'}"
        raise UsageError(f"--kind {kind}", found, do)
    return (kind,)


def parse_corpus(text: str) -> Corpus:
    """Parse KIND or KIND:PATH and resolve the corpus."""
    try:
        corpus = Corpus.model_validate(text)
    except ValidationError as error:
        do = "Write KIND or KIND:PATH, such as --corpus text:book.txt"
        raise UsageError(f"--corpus {text}", format_first_error(error), do) from error
    return resolve_corpus(corpus)


def parse_recipe(text: str) -> ContextRecipe | SnippetRecipe:
    """Parse the name of a built-in recipe, or the fields of a recipe as YAML or JSON."""
    fields = parse_yaml(f"--recipe {text}", text)
    if not isinstance(fields, dict):
        return built_in_recipe(text)
    try:
        return RECIPE_ADAPTER.validate_python(fields)
    except ValidationError as error:
        do = "Write --recipe quick@1, or all fields of a recipe (pipeline/recipes.md)"
        raise UsageError(f"--recipe {text}", format_first_error(error), do) from error


def parse_resources(sets: list[str]) -> Resources:
    """Return default resources with each `resources.key=value` applied."""
    fields = merge_overrides({"resources": {}}, sets)
    if set(fields) != {"resources"}:
        wrong = (set(fields) - {"resources"}).pop()
        found = f"not a field that `shapelake measure` has{suggest(wrong, ['resources'])}"
        raise UsageError(f"--set {wrong}", found, "Write --set resources.cpus=4 or another field of resources")
    try:
        return Resources.model_validate(fields["resources"])
    except ValidationError as error:
        do = "Write --set resources.FIELD=VALUE, such as resources.cpus=4"
        raise UsageError("--set resources", format_first_error(error), do) from error
