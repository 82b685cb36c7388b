"""Earlier results in the lake, from which a plan derives the reason to run each cell and the expected duration."""

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
NO_RECORDS = "no similarity records"
"""Reason to run a cell that is in the lake already."""
REASON_CODES = {
    "failed before": "failed_before",
    "new config or tokenizer": "new_config_or_tokenizer",
    "re-uploaded": "reuploaded",
    "new checkpoint": "new_checkpoint",
    "missing recipe": "missing_recipe",
    "algorithm version": "algorithm_version",
    "missing corpus": "missing_corpus",
    NO_RECORDS: "no_similarity_records",
}
"""Stable machine-readable code of each reason to run a cell."""


class CommittedCell(NamedTuple):
    """Columns of a committed cell that a plan needs."""

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
    """Committed cells, indexed by (content, kind) and by (model, recipe, kind, CPU or GPU)."""

    def __init__(self, cells: Iterable[CommittedCell] = ()) -> None:
        self._by_content: dict[tuple[str, str], list[CommittedCell]] = defaultdict(list)
        self._seconds: dict[tuple[str, str, str, bool], list[float]] = defaultdict(list)
        for one in cells:
            self._by_content[one.content, one.kind].append(one)
            if one.total_s is not None:
                self._seconds[one.model, one.recipe, one.kind, one.on_gpu].append(one.total_s)

    def find_same_content(self, cell: Cell) -> list[CommittedCell]:
        """Return the committed cells with the same checkpoint files and kind, for any corpus and recipe."""
        return self._by_content.get((cell.checkpoint.content, cell.kind), [])

    def mean_seconds(self, cell: Cell, on_gpu: bool) -> float | None:
        """Return the mean seconds of committed cells with the same model, recipe, kind and type of device.

        Return None if there are no such cells.
        """
        seconds = self._seconds.get((cell.checkpoint.model, cell.recipe.label, cell.kind, on_gpu))
        return mean(seconds) if seconds else None


def load_prior_results(
    lake: Lake, files: Mapping[str, str], todo: Iterable[Cell], labels: Iterable[ResolvedLabel]
) -> PriorResults:
    """Load the committed cells of every model that shares its name, or a checkpoint's content, with a cell to run.

    If no label in the lake belongs to such a model, no cell file is opened.
    """
    contents = {cell.checkpoint.content for cell in todo}
    models = {cell.checkpoint.model for cell in todo}
    near = {label.model for label, *_ in labels if label.content in contents or label.model in models}
    if not near:
        return PriorResults()
    from pipeline.lake.cell_index import load_cells  # loads polars

    cells = load_cells(lake, files)
    near_cells = cells.filter(cells["model"].is_in(sorted(near))).select(*DIGEST_COLUMNS, *RESULT_COLUMNS)
    return PriorResults(CommittedCell(digest_json(row[:3]), *row[3:]) for row in near_cells.iter_rows())


def reason_to_run(cell: Cell, past: PriorResults, labels: dict[str, dict[str, str]], failed: bool) -> str:
    """Return the reason why `cell` is not in the lake yet, a key of REASON_CODES.

    Args:
        labels: maps a label name to {content: weights digest} of every content that the label has had.
        failed: True if the lake has a record of a failed attempt at the cell.
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
