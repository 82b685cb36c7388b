"""What the lake already knows of the models of a plan: why a cell is still to run, and what cells of its kind took."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from statistics import mean
from typing import NamedTuple

from pipeline.lake import Lake
from pipeline.lake.records import ResolvedLabel
from pipeline.spec import Cell, Corpus
from pipeline.strict_model import digest_json

RESULT_COLUMNS = ("model", "corpus", "corpus_sha256", "kind", "recipe", "device", "total_s")
DIGEST_COLUMNS = ("weights_digest", "config_digest", "tokenizer_digest")


class CommittedCell(NamedTuple):
    """A committed cell of one of the models."""

    content: str
    model: str
    corpus: str
    corpus_sha256: str | None
    kind: str
    recipe: str
    device: str | None
    total_s: float | None

    @property
    def on_gpu(self) -> bool:
        return self.device is not None and not self.device.startswith("cpu")


class PriorResults:
    """Committed cells, to be asked by what they measured and by what such cells take."""

    def __init__(self, cells: Iterable[CommittedCell] = ()) -> None:
        self._of_content: dict[tuple[str, str], list[CommittedCell]] = defaultdict(list)
        self._took: dict[tuple[str, str, str, bool], list[float]] = defaultdict(list)
        for one in cells:
            self._of_content[one.content, one.kind].append(one)
            if one.total_s is not None:
                self._took[one.model, one.recipe, one.kind, one.on_gpu].append(one.total_s)

    def find_same_content(self, cell: Cell) -> list[CommittedCell]:
        """Those of the same files and profile, whatever the corpus and recipe."""
        return self._of_content.get((cell.checkpoint.content, cell.kind), [])

    def mean_seconds(self, cell: Cell, on_gpu: bool) -> float | None:
        """What such a cell took so far: the mean over those of its model, recipe and profile on such a device."""
        took = self._took.get((cell.checkpoint.model, cell.recipe.label, cell.kind, on_gpu))
        return mean(took) if took else None


def load_prior_results(
    lake: Lake, files: Mapping[str, str], todo: Iterable[Cell], labels: Iterable[ResolvedLabel]
) -> PriorResults:
    """Of the committed cells (`files`), those of the contents and models that the cells to run have.

    No file is opened where there are none.
    """
    contents = {cell.checkpoint.content for cell in todo}
    models = {cell.checkpoint.model for cell in todo}
    near = {label.model for label, *_ in labels if label.content in contents or label.model in models}
    if not near:
        return PriorResults()
    from pipeline.lake.cell_index import (
        load_cell_index as committed,  # polars loads only where there is something to read
    )

    cells = committed(lake, files).cells
    near_cells = cells.filter(cells["model"].is_in(sorted(near))).select(*DIGEST_COLUMNS, *RESULT_COLUMNS)
    return PriorResults(CommittedCell(digest_json(row[:3]), *row[3:]) for row in near_cells.iter_rows())


def reason_to_run(cell: Cell, past: PriorResults, labels: dict[str, dict[str, str]], failed: bool) -> str:
    """Why `cell` is to run.

    Args:
        past: what is committed.
        labels: what each label was seen to have: weights digest by content.
        failed: it was tried before.
    """
    if failed:
        return "failed before"
    mine = past.find_same_content(cell)
    if not mine:
        before = labels.get(cell.checkpoint.label, {})
        if cell.checkpoint.weights_digest in before.values():
            return "new config or tokenizer"
        return "re-uploaded" if before else "new checkpoint"
    mine = [one for one in mine if one.recipe == cell.recipe.label]
    if not mine:
        return "missing recipe"
    return "algorithm version" if any(_same_text(one, cell.corpus) for one in mine) else "missing corpus"


def _same_text(one: CommittedCell, corpus: Corpus) -> bool:
    return (one.corpus, one.corpus_sha256) == (corpus.id, corpus.sha256)
