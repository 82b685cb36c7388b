"""Columns of a row other than metrics (identity, text, cost, provenance), and the metadata of a cell's file."""

import json
import platform
import resource
import subprocess
from collections.abc import Iterable
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from pipeline.catalog.architectures import norm_placement
from pipeline.corpora import Contexts
from pipeline.model import LayerStack, Model, StateSpec
from pipeline.spec import ALGORITHMS, Cell, Recipe, algorithm_number

LakeRow = dict[str, Any]
RECORDED_PACKAGES = (
    *("shapelake", "torch", "transformers", "tokenizers", "faiss-cpu", "faiss-gpu"),
    *("numpy", "ray", "pyarrow"),
)


def cell_columns(cell: Cell, model: Model, stack: LayerStack) -> LakeRow:
    """Return the columns that identify the cell and describe its checkpoint and model, equal in all its rows."""
    checkpoint, recipe = cell.checkpoint, cell.recipe
    named = ("model", "revision", "family", "commit_sha", "step", "tokens_seen", "tokens_source", "stage", "run")
    digests = ("weights_digest", "config_digest", "tokenizer_digest")
    return {
        **{name: getattr(checkpoint, name) for name in (*named, *digests)},
        "cell_id": cell.id,
        "recipe": recipe.label,
        "recipe_fingerprint": recipe.fingerprint,
        "algorithm": algorithm_number(),
        "seed": recipe.seed,
        "kind": cell.kind,
        "corpus": cell.corpus.id,
        "corpus_sha256": cell.corpus.sha256,
        "arch": model.arch,
        "norm_placement": norm_placement(model.module.config.to_dict()),
        "n_params": model.n_params,
        "n_layers": stack.n_layers,
        "d_model": model.d_model,
        "vocab_size": model.vocab_size,
        "dtype": model.dtype,
    }


def text_columns(text: Contexts) -> LakeRow:
    """Return the columns of the text: its size, and digests that are equal in rows measured on the same contexts."""
    digests = {"text_sha256": text.text_sha256, "contexts_digest": text.digest}
    return {**digests, "context_tokens": text.context_tokens, "n_contexts": len(text)}


def cost_columns(device: str, batch_tokens: int, load_s: float, forward_s: float, total_s: float) -> LakeRow:
    """Return the columns of cost: wall seconds of the cell, peak memory of the process so far, and the device.

    `download_bytes` and `attempt` are those of a local cell that succeeds at once; a worker overwrites them.
    """
    on_gpu = device != "cpu"
    return {
        "load_s": load_s,
        "forward_s": forward_s,
        "total_s": total_s,
        "peak_device_mib": torch.cuda.max_memory_allocated() / 2**20 if on_gpu else None,
        "peak_host_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10,
        "download_bytes": 0,
        "device": torch.cuda.get_device_name() if on_gpu else f"cpu {platform.machine()}",
        "attempt": 1,
        "batch_tokens": batch_tokens,
    }


def build_row(about: LakeRow, state: StateSpec, layer: LakeRow, flags: Iterable[str]) -> LakeRow:
    """Return the row of one layer: columns of the cell, place of the layer in the model, and metrics of the layer.

    Its flags are those of the layer and `flags`, which apply to the whole cell.
    """
    position = {"layer": state.layer, "depth": state.depth, "state": state.name}
    return {**about, **position, **layer, "flags": sorted({*layer["flags"], *flags})}


def file_metadata(recipe: Recipe) -> dict[str, str]:
    """Return the metadata of a cell's file: fields of the recipe, versions of algorithms and packages, git commit."""
    return {
        "recipe": json.dumps(recipe.model_dump(mode="json")),
        "algorithms": json.dumps(ALGORITHMS),
        "packages": json.dumps({name: found for name in RECORDED_PACKAGES if (found := _version(name))}),
        "python": platform.python_version(),
        "cuda": torch.version.cuda or "",
        **_code(),
    }


def compute_s(rows: list[LakeRow]) -> float:
    """Return the wall seconds of all forward passes and metrics of a cell, given its rows."""
    return rows[0]["forward_s"] + sum(row["knn_s"] + row["spectrum_s"] for row in rows)


def summarize_peaks(rows: list[LakeRow]) -> str:
    """Return a short text about a cell: the largest anisotropy and `id_twonn` over its layers, without null values."""
    columns = {"anisotropy": "anisotropy", "ID": "id_twonn"}
    values = {title: [row[name] for row in rows if row[name] is not None] for title, name in columns.items()}
    return ", ".join(f"{title} up to {max(found):.2f}" for title, found in values.items() if found)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


@cache
def _code() -> dict[str, str]:
    """Return `git_commit` of this code, and `git_dirty`: "true" if the checkout has changes, else "false".

    The dict is empty outside a checkout.
    """

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    try:
        commit = git("rev-parse", "HEAD")
    except FileNotFoundError:
        return {}
    return {"git_commit": commit, "git_dirty": str(bool(git("status", "--porcelain"))).lower()} if commit else {}
