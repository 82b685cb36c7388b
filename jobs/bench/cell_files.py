"""Fast writer of many cell files: it encodes one file per corpus and recipe, and replaces its identity bytes."""

import math
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.columns import all_columns
from pipeline.lake import Lake, checksum, to_table
from pipeline.lake.layout import cell_key
from pipeline.lake.schema import SMALL_FILE_OPTIONS
from pipeline.spec import Checkpoint, algorithm_number
from pipeline.strict_model import digest_json

LAYERS = 13
"""Number of rows of a cell: the embedding and 12 blocks."""
CELL_ID, MODEL, REVISION, WEIGHTS_DIGEST = "c" * 32, "lab/model-0000", "step00000000", "w" * 64
STEP = 0x5C0FFEE1_5C0FFEE1
"""Placeholders for the identity of a cell. Each occurs in one column, and is replaced by a value of equal length."""


def checkpoint(index: int, models: int) -> Checkpoint:
    """Return checkpoint number `index` of `models` models.

    The numbers 0 to `models` - 1 are step 0 of each model, the next `models` numbers are step 1, and so on.
    """
    model, step = f"lab/model-{index % models:04d}", index // models
    return Checkpoint(
        model=model,
        revision=f"step{step:08d}",
        path="",
        tokenizer_path="",
        kinds=("decoder",),
        weights_digest=digest_json([model, step], bits=256),
        config_digest=digest_json("config", bits=256),
        tokenizer_digest=digest_json("tokenizer", bits=256),
        step=step,
    )


def write_cells(lake: Lake, checkpoints: Sequence[Checkpoint], texts: Iterable[tuple[str, str]]) -> list[str]:
    """Write one cell file per checkpoint and (corpus, recipe) into a lake in a folder; return the cell ids."""
    cell_ids = []
    for corpus, recipe in texts:
        for point in checkpoints:
            cell_ids.append(digest_json([point.label, corpus, recipe]))
            write_cell(lake, point, cell_ids[-1], corpus, recipe)
    return cell_ids


def write_cell(lake: Lake, point: Checkpoint, cell_id: str, corpus: str, recipe: str) -> None:
    """Write the file of one cell; the model name of `point` must be as long as those that `checkpoint` makes."""
    path = Path(lake.uri, cell_key(point.model_key, cell_id))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(fill_template(point, cell_id, corpus, recipe))


def fill_template(point: Checkpoint, cell_id: str, corpus: str, recipe: str) -> bytes:
    """Return the bytes of a cell's file, with a valid checksum."""
    step = point.step or 0
    identity = {
        CELL_ID: cell_id,
        MODEL: point.model,
        REVISION: f"step{step:08d}",
        WEIGHTS_DIGEST: point.weights_digest,
    }
    data = _template(corpus, recipe)
    for old, new in identity.items():
        if len(old) != len(new):
            raise ValueError(f"{new!r} is not as long as {old!r}")
        data = data.replace(old.encode(), new.encode())
    return checksum.fill_checksum(data.replace(_int64(STEP), _int64(step)))


@cache
def _template(corpus: str, recipe: str) -> bytes:
    """Encode the template of a cell: uncompressed, so that its values are plain bytes, and with a blank checksum."""
    table = to_table([_row(layer, corpus, recipe) for layer in range(LAYERS)], {})
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, table.schema, compression="none", **SMALL_FILE_OPTIONS) as writer:
        writer.add_key_value_metadata({**(table.schema.metadata or {}), checksum.KEY: checksum.BLANK})
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def _row(layer: int, corpus: str, recipe: str) -> dict[str, Any]:
    """Return the row of one layer, with a dome of anisotropy over depth; columns that no command reads are constant."""
    depth = layer / (LAYERS - 1)
    return {column.name: constant_of_type(column.type) for column in all_columns()} | {
        "cell_id": CELL_ID,
        "model": MODEL,
        "revision": REVISION,
        "step": STEP,
        "weights_digest": WEIGHTS_DIGEST,
        "config_digest": digest_json("config", bits=256),
        "tokenizer_digest": digest_json("tokenizer", bits=256),
        "corpus": corpus,
        "corpus_sha256": digest_json(corpus, bits=256),
        "recipe": recipe,
        "recipe_fingerprint": digest_json(recipe),
        "kind": "decoder",
        "algorithm": algorithm_number(),
        "layer": layer,
        "depth": depth,
        "state": "block" if layer else "embedding",
        "anisotropy": 0.1 + 0.5 * math.sin(math.pi * depth),
        "status": "ok",
        "flags": [],
        **dict.fromkeys(("stage", "run", "duplicate_of", "superseded"), None),
    }


def constant_of_type(kind: str) -> Any:
    """Return a constant value of an Arrow type, for columns whose values do not matter."""
    if kind.startswith("list<"):
        return []
    if kind.startswith("timestamp"):
        return datetime(2026, 1, 2, tzinfo=UTC)
    return {"string": "word", "bool": False}.get(kind, 0.01 if kind.startswith("float") else 7)


def _int64(value: int) -> bytes:
    return value.to_bytes(8, "little")
