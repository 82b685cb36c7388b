"""Lakes with similarity records of synthetic clouds, and the frame of their rows as `load_layer_rows` returns it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from pipeline.analysis.frames import NEEDED_COLUMNS
from pipeline.geometry import record_layer
from pipeline.lake import Lake, open_lake
from pipeline.lake.scan import polars_schema
from pipeline.lake.similarity_files import commit_records, encode_records
from pipeline.similarity.record import LayerRecord
from pipeline.similarity.settings import Similarity
from pipeline.spec import Checkpoint
from pipeline.strict_model import digest_json

Clouds = Sequence[np.ndarray]
"""Hidden states of each block, [tokens, dim]."""


def settings(tokens: int) -> Similarity:
    return Similarity(tokens=tokens, rank=min(32, tokens - 1), neighbours=16)


def record_rows(
    clouds: Clouds,
    about: Mapping[str, Any],
    groups: int = 4,
    token_ids: np.ndarray | None = None,
    sinks: np.ndarray | None = None,
    size: Similarity | None = None,
) -> list[dict[str, Any]]:
    """Rows of a record file whose layers 1.. are these clouds."""
    n = len(clouds[0])
    shared = {
        "token_ids": np.arange(n, dtype=np.int32) if token_ids is None else token_ids.astype(np.int32),
        "token_groups": (np.arange(n) * groups // n).astype(np.int16),
        "sinks": np.zeros(n, bool) if sinks is None else sinks,
    }
    rows = []
    for layer, cloud in enumerate(clouds, 1):
        record = record_layer(torch.from_numpy(cloud), size or settings(n))
        place = {"layer": layer, "depth": layer / len(clouds), "state": "block"}
        arrays = {name: getattr(record, name) for name in LayerRecord.__dataclass_fields__} if record else {}
        rows.append({**about, **shared, **place, "status": "ok" if record else "no_geometry", **arrays})
    return rows


def add_cell(
    lake: Lake,
    model: str,
    step: int | None,
    clouds: Clouds,
    dimension: Sequence[float] | None = None,
    tokens_digest: str = "tokens",
    **fields: Any,
) -> list[dict[str, Any]]:
    """Commit the records of a cell; return its rows of the frame, one per block."""
    cell_id = digest_json([model, step, tokens_digest])
    about = {"cell_id": cell_id, "model": model, "revision": f"step{step}", "step": step, "corpus": "text"}
    about |= {"corpus_sha256": "c", "tokenizer_digest": "t", "kind": "decoder", "recipe": "quick@1"}
    about |= {"recipe_fingerprint": "r", "contexts_digest": "d", "tokens_digest": tokens_digest}
    size = settings(len(clouds[0])).name
    data = encode_records(record_rows(clouds, about, **fields), {})
    commit_records(lake, cell_id, model, size, data)
    key = lake.record_files()[cell_id, size]
    common = {name: about[name] for name in about if name not in ("tokens_digest", "recipe_fingerprint")}
    common |= {"weights_digest": cell_id, "superseded": False, "tokens_seen": None if step is None else step * 1000}
    common |= {"state": "block", "records": [key], "lake": lake.uri, "groups": fields.get("groups", 4), "status": "ok"}
    heights = dimension or [1.0] * len(clouds)
    return [
        {**common, "layer": i, "depth": i / len(clouds), "id_twonn": heights[i - 1]} for i in range(1, len(clouds) + 1)
    ]


def frame(rows: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """Frame of these rows with every column that findings use."""
    schema = {name: kind for name, kind in polars_schema().items() if name in NEEDED_COLUMNS}
    schema |= {"groups": pl.Int64(), "audit": pl.String(), "records": pl.List(pl.String()), "lake": pl.String()}
    return pl.DataFrame([{name: row.get(name) for name in schema} for row in rows], schema=schema)


def history(lake: Path, model: str, courses: Mapping[int, Clouds], **fields: Any) -> list[dict[str, Any]]:
    """Rows of a history with the clouds of each step."""
    return [row for step, clouds in courses.items() for row in add_cell(Lake(lake), model, step, clouds, **fields)]


def add_records(uri: str, tokens: int = 40, blocks: int = 4, shared: bool = False) -> None:
    """Add records of moving clouds to every cell of a lake; the later the step, the nearer to the last clouds.

    Args:
        shared: all models read the same tokens of a corpus.
    """
    query = "select cell_id, model, revision, step, corpus, corpus_sha256, kind, recipe, recipe_fingerprint from cells"
    for cell in open_lake(uri).query_frame(query).unique("cell_id").sort("model", "corpus", "step").to_dicts():
        rng = np.random.default_rng([*f"{cell['model']} {cell['corpus']}".encode()])
        share = min(1.0, np.log1p(cell["step"] or 0) / 8)
        pairs = rng.standard_normal((blocks, 2, tokens, 12))
        clouds = [np.sqrt(1 - share**2) * first + share * last for first, last in pairs]
        digests = {
            "tokenizer_digest": "t",
            "contexts_digest": "d",
            "tokens_digest": cell["corpus"] if shared else f"{cell['model']} {cell['corpus']}",
        }
        data = encode_records(record_rows(clouds, cell | digests), {})
        model_key = Checkpoint.model_construct(model=cell["model"]).model_key
        commit_records(Lake(uri), cell["cell_id"], model_key, settings(tokens).name, data)
