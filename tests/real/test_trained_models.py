"""Numbers of a trained decoder and a trained encoder against references computed here from transformers and numpy.

Skipped where the two packages cannot be installed; `make test-real` runs it, in about eight minutes on 2 cores.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from pipeline import measure
from pipeline.catalog.local_histories import inspect_checkpoint
from pipeline.corpora import Contexts, build_contexts, resolve_corpus
from pipeline.demo.prose import write_held_out_prose
from pipeline.demo.trained_models import DECODER, ENCODER, provide_trained_models
from pipeline.errors import UsageError
from pipeline.measurement.loaded_checkpoint import load_checkpoint
from pipeline.recipe import built_in_recipe
from pipeline.spec import Cell, Corpus, Resources

pytestmark = [pytest.mark.real, pytest.mark.timeout(1200)]
RECIPE: Any = built_in_recipe("real@1")
KINDS = {DECODER: "decoder", ENCODER: "encoder"}
SPECTRUM_TOLERANCE = 1e-13
"""Relative. Measured over the 78 states: at most 2.9e-15, of anisotropy and of the participation ratio."""
DIMENSION_TOLERANCE = 2e-8
"""Relative to the dimension, also for its error, a difference of dimensions. Measured over the 78
states: at most 5.4e-9, and 2.0e-9 for the errors."""
FLOAT32_UNIT = 2.0**-24
BATCH = 16
"""Contexts of 64 tokens in a batch of 1024 tokens."""


class Measured(NamedTuple):
    rows: list[dict[str, Any]]
    states: list[np.ndarray]
    """Hidden states of every layer, float64 `[contexts * tokens, dim]`, from transformers."""
    text: Contexts


@pytest.fixture(scope="module")
def folders() -> dict[str, Path]:
    """Checkpoint folders, from the user's own cache: this fixture is older than the tests' cache."""
    try:
        return provide_trained_models()
    except UsageError as error:
        pytest.skip(f"no trained models: {error}")


@pytest.fixture(scope="module", params=[DECODER, ENCODER])
def model(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module", params=["text", "random-uniform"])
def measured(request: pytest.FixtureRequest, model: str, folders: dict[str, Path], tmp_path_factory: Any) -> Measured:
    prose = write_held_out_prose(tmp_path_factory.mktemp("prose"))
    corpus = resolve_corpus(Corpus(kind=request.param, path=str(prose) if request.param == "text" else None))
    cell = Cell(
        checkpoint=inspect_checkpoint(folders[model]),
        corpus=corpus,
        recipe=RECIPE,
        kind=KINDS[model],  # type: ignore
    )
    loaded = load_checkpoint(cell.checkpoint, RECIPE, Resources(cpus=2))
    about = loaded.model.vocab_size, loaded.model.max_positions, cell.checkpoint.tokenizer_digest
    text = build_contexts(corpus, RECIPE, loaded.tokenizer, *about)
    return Measured(measure.measure(cell, loaded, 1024), _states(folders[model], text.ids), text)


def _states(folder: Path, contexts: Any) -> list[np.ndarray]:
    """Every state in the lake's order; contexts are forwarded in the batches of `capture` 2, since the batch changes
    the last digits of states."""
    from transformers import AutoModel

    body = AutoModel.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()
    last_block: list[torch.Tensor] = []
    if hasattr(body, "norm"):  # `output_hidden_states` has the last block of a decoder only after the final norm
        body.norm.register_forward_pre_hook(lambda _, given: last_block.append(given[0]))
    each = []
    with torch.inference_mode():
        for batch in np.split(np.asarray(contexts).astype(np.int64), range(BATCH, len(contexts), BATCH)):
            last_block.clear()
            states = body(torch.from_numpy(batch), output_hidden_states=True).hidden_states
            each.append([*states[:-1], *last_block, states[-1]])
    return [np.concatenate([states[i].flatten(0, 1).double().numpy() for states in each]) for i in range(len(each[0]))]


def test_every_state_is_there(measured: Measured, model: str) -> None:
    rows = measured.rows
    assert len(rows) == len(measured.states) == {DECODER: 32, ENCODER: 7}[model]
    assert {row["kind"] for row in rows} == {KINDS[model]}
    assert [row["layer"] for row in rows] == list(range(len(rows)))


def test_anisotropy_and_participation_ratio_equal_a_singular_value_decomposition(measured: Measured) -> None:
    for row, points in zip(measured.rows, measured.states, strict=True):
        shares = np.linalg.svd(points - points.mean(axis=0), compute_uv=False) ** 2
        expected = shares[0] / shares.sum(), shares.sum() ** 2 / (shares**2).sum()
        found = row["anisotropy"], row["participation_ratio"]
        assert found == pytest.approx(expected, rel=SPECTRUM_TOLERANCE), row["layer"]


def test_dimensions_equal_brute_force_neighbours(measured: Measured) -> None:
    kept = np.concatenate([64 * i + positions for i, positions in enumerate(measured.text.kept_positions)])
    group = np.repeat(measured.text.context_group, [len(positions) for positions in measured.text.kept_positions])
    for row, points in zip(measured.rows, measured.states, strict=True):
        mus = [_log_mu(points[kept[group == g]]) for g in range(RECIPE.groups)]
        assert row["n_points"] == sum(map(len, mus)), row["layer"]
        for name, estimate in (("id_twonn", _twonn), ("id_mle", _mle)):
            values = np.array([estimate(mu) for mu in mus])
            expected = values.mean(), values.std(ddof=1) / np.sqrt(len(values))
            found = row[name], row[f"{name}_se"]
            assert found == pytest.approx(expected, abs=DIMENSION_TOLERANCE * expected[0]), (name, row["layer"])


def test_groups_have_five_hundred_points_and_errors(measured: Measured, model: str) -> None:
    """On prose the decoder's layer 0 holds only token embeddings, so that equal tokens are one point."""
    for row in measured.rows:
        assert min(row["id_twonn_se"], row["id_mle_se"], row["anisotropy_se"]) > 0
        if (model, row["layer"]) != (DECODER, 0):
            assert row["n_points"] >= 500 * RECIPE.groups
            assert "few_points" not in row["flags"]


def test_the_decoder_has_a_dome_made_of_sinks_and_the_encoder_has_none(measured: Measured, model: str) -> None:
    blocks = [row for row in measured.rows if row["state"] == "block"]
    middle = blocks[len(blocks) // 3 : 2 * len(blocks) // 3]
    if model == ENCODER:
        assert max(row["anisotropy"] for row in blocks) < 0.15
    else:
        assert max(row["anisotropy"] for row in middle) > 0.99
        assert max(row["anisotropy_no_sink"] for row in middle[2:]) < 0.2


def _log_mu(points: np.ndarray) -> np.ndarray:
    """Sorted log(r2 / r1) of the distinct points, by all pairwise distances."""
    points = points[np.sort(np.unique(points, axis=0, return_index=True)[1])]
    while True:
        distances = np.array([np.sqrt(((points - point) ** 2).sum(axis=1)) for point in points])
        np.fill_diagonal(distances, np.inf)
        nearest = np.sort(np.partition(distances, 1, axis=1)[:, :2], axis=1)
        rounding = 32 * FLOAT32_UNIT * np.sqrt((points**2).sum(axis=1))
        close = distances <= np.minimum(rounding, 0.02 * np.median(nearest[:, 0]))[:, None]
        if not close.any():
            return np.sort(np.log(nearest[:, 1] / nearest[:, 0]))
        points = points[np.setdiff1d(np.arange(len(points)), np.argwhere(close).max(axis=1))]


def _twonn(log_mu: np.ndarray) -> float:
    """Facco et al.: slope through the origin over the lowest 90 %."""
    fitted = int(0.9 * len(log_mu))
    x, y = log_mu[:fitted], -np.log1p(-np.arange(1, fitted + 1) / len(log_mu))
    return float(x @ y / (x @ x))


def _mle(log_mu: np.ndarray) -> float:
    """Denti et al.: the unbiased maximum likelihood."""
    return float((len(log_mu) - 1) / log_mu.sum())
