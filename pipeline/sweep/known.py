"""What the lake already knows of the models of a plan: why a cell is still to run, and what cells of its kind took."""

from collections.abc import Iterable
from statistics import mean
from typing import NamedTuple

from pipeline.lake import Lake
from pipeline.lake import open as open_lake
from pipeline.noun import digest
from pipeline.spec import Cell, Corpus

COLUMNS = ("model", "corpus", "corpus_sha256", "kind", "recipe", "device", "total_s")
DIGESTS = ("weights_digest", "config_digest", "tokenizer_digest")


class Known(NamedTuple):
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


def known(lake: Lake, todo: Iterable[Cell]) -> list[Known]:
    """Committed cells of the contents and models that the cells to run have; no file is opened where there are none."""
    contents = {cell.checkpoint.content for cell in todo}
    models = {cell.checkpoint.model for cell in todo}
    near = {label.model for label, *_ in lake.labels() if label.content in contents or label.model in models}
    if not near:
        return []
    names = ", ".join(f"'{model.replace(chr(39), chr(39) * 2)}'" for model in sorted(near))
    columns = ", ".join((*DIGESTS, *COLUMNS))
    found = open_lake(lake.uri).frame(f"SELECT {columns} FROM cells WHERE model IN ({names})")
    return [Known(digest(row[:3]), *row[3:]) for row in found.iter_rows()]


def reason(cell: Cell, cells: Iterable[Known], labels: dict[str, dict[str, str]], failed: bool) -> str:
    """Why `cell` is to run.

    Args:
        cells: what is committed.
        labels: what each label was seen to have: weights digest by content.
        failed: it was tried before.
    """
    if failed:
        return "failed before"
    mine = [one for one in cells if one.content == cell.checkpoint.content and one.kind == cell.kind]
    if not mine:
        before = labels.get(cell.checkpoint.label, {})
        if cell.checkpoint.weights_digest in before.values():
            return "new config or tokenizer"
        return "re-uploaded" if before else "new checkpoint"
    mine = [one for one in mine if one.recipe == cell.recipe.label]
    if not mine:
        return "missing recipe"
    return "algorithm version" if any(_same_text(one, cell.corpus) for one in mine) else "missing corpus"


def seconds(cell: Cell, cells: Iterable[Known], on_gpu: bool) -> float | None:
    """What such a cell took so far: the mean over those of its model, recipe and profile on such a device."""
    wanted = (cell.checkpoint.model, cell.recipe.label, cell.kind)
    alike = [one for one in cells if (one.model, one.recipe, one.kind) == wanted and one.on_gpu == on_gpu]
    took = [one.total_s for one in alike if one.total_s is not None]
    return mean(took) if took else None


def _same_text(one: Known, corpus: Corpus) -> bool:
    return (one.corpus, one.corpus_sha256) == (corpus.id, corpus.sha256)
