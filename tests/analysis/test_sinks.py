"""Finding `sinks`, and the length correction against published numbers and against simulation."""

import numpy as np
import polars as pl
import pytest

from pipeline.analysis.sinks import compute_sinks, rescale_to_context_length
from tests.support import finding_rows


def model(length, norm=60.0, dim=512, along=1.0):
    """Return the row of a layer of two kinds of tokens, one sink per context, by the closed form."""
    p = 1 / length
    line, trace = p * (1 - p) * norm**2, (1 - p) * (along + dim - 1)
    share = (p * (1 - p) ** 2 * norm**2) / (line + trace)
    return finding_rows.row(
        n_tokens=12_800 * length,
        n_sink_tokens=12_800,
        context_tokens=length,
        anisotropy=(line + (1 - p) * along) / (line + trace),
        anisotropy_no_sink=max(along, 1.0) / (along + dim - 1),
        sink_variance_share=share,
        total_variance=line + trace,
    )


def rescaled(row, length):
    return rescale_to_context_length(finding_rows.frame([row]), length)["anisotropy_at"].item()


PUBLISHED = {16: 0.307, 64: 0.101, 128: 0.054, 512: 0.0155}
"""Anisotropy by context length for a sink of norm 60 in 512 dimensions of unit variance, checked by simulation."""


@pytest.mark.parametrize("there", PUBLISHED)
@pytest.mark.parametrize("here", PUBLISHED)
def test_every_length_is_rescaled_to_every_other(here, there):
    assert model(here)["anisotropy"] == pytest.approx(PUBLISHED[here], rel=0.01)
    assert rescaled(model(here), there) == pytest.approx(model(there)["anisotropy"], rel=1e-9)


def test_tokens_that_vary_along_the_sinks_keep_that_variance():
    assert rescaled(model(64, along=30.0), 512) == pytest.approx(model(512, along=30.0)["anisotropy"], rel=1e-9)


def test_a_length_is_rescaled_to_itself_whatever_the_row():
    random = np.random.default_rng(0)
    for _ in range(50):
        anisotropy, no_sink, share = random.uniform(0.05, 0.9), random.uniform(0.01, 0.5), random.uniform(0, 0.9)
        row = finding_rows.row(anisotropy=anisotropy, anisotropy_no_sink=no_sink, sink_variance_share=share)
        assert rescaled(row, 128) == pytest.approx(anisotropy)


def measured(length, contexts=800, dim=24, norm=12.0, seed=0):
    """Measure the same columns on simulated tokens whose variance differs by direction."""
    random = np.random.default_rng(seed)
    tokens = random.standard_normal((contexts, length, dim)) * np.geomspace(2, 0.5, dim)
    tokens[:, 0] = np.eye(dim)[3] * norm + 0.05 * random.standard_normal((contexts, dim))
    first = np.zeros((contexts, length), bool)
    first[:, 0] = True
    x, first = tokens.reshape(-1, dim), first.ravel()
    center = x - x.mean(0)
    top = [np.linalg.eigvalsh(np.cov(part.T)) for part in (x, x[~first])]
    return finding_rows.row(
        n_tokens=len(x),
        n_sink_tokens=int(first.sum()),
        context_tokens=length,
        anisotropy=top[0][-1] / top[0].sum(),
        anisotropy_no_sink=top[1][-1] / top[1].sum(),
        sink_variance_share=(center[first] ** 2).sum() / (center**2).sum(),
    )


@pytest.mark.parametrize(("here", "there"), [(8, 32), (32, 8), (16, 64)])
def test_against_simulated_tokens(here, there):
    target = measured(there, seed=1)["anisotropy"]
    assert rescaled(measured(here), there) == pytest.approx(target, rel=0.05)
    assert abs(measured(here)["anisotropy"] - target) > 0.2 * target, "anisotropy depends on the length here"


def test_a_row_without_an_input_of_the_formula_is_null():
    for lack in ("sink_variance_share", "anisotropy_no_sink", "context_tokens"):
        assert rescaled(model(64) | {lack: None}, 128) is None
    assert rescaled(model(64) | {"n_sink_tokens": 0}, 16) is None


@pytest.mark.parametrize(
    ("anisotropy", "bare", "verdict"),
    [(0.9, 0.1, "sinks"), (0.5, 0.45, "not_sinks"), (0.5, 0.25, "undecided"), (0.5, None, "unknown")],
)
def test_verdicts(anisotropy, bare, verdict):
    rows = [
        finding_rows.row(layer=i, depth=i / 12, anisotropy=anisotropy, anisotropy_no_sink=bare) for i in range(1, 13)
    ]
    found = compute_sinks(finding_rows.frame(rows)).row(0, named=True)
    assert (found["verdict"], found["rows"]) == (verdict, 7)
    if bare is not None:
        assert found["left"] == pytest.approx(bare / anisotropy)
        assert found["left_low"] < found["left"] < found["left_high"]


def test_the_interval_is_students_with_the_recipes_groups():
    rows = [finding_rows.row(anisotropy=0.5, anisotropy_no_sink=0.5)]
    found = compute_sinks(finding_rows.frame(rows)).row(0, named=True)
    assert found["left_high"] - 1 == pytest.approx(3.18245 * 2 * finding_rows.SE / 0.5, rel=1e-4)
    for groups in (1, None):
        found = compute_sinks(finding_rows.frame([row | {"groups": groups} for row in rows])).row(0, named=True)
        assert (found["verdict"], found["left_low"]) == ("no_errors", None)


def test_only_the_middle_blocks_count():
    middle = [finding_rows.row(layer=1, depth=0.5)]
    others = [
        finding_rows.row(layer=0, depth=0.5, state="embedding"),
        finding_rows.row(layer=9, depth=0.9, anisotropy=0.1),
    ]
    assert compute_sinks(finding_rows.frame([*middle, *others])).equals(compute_sinks(finding_rows.frame(middle)))
    assert compute_sinks(finding_rows.frame([])).is_empty()
    assert isinstance(compute_sinks(finding_rows.frame([])), pl.DataFrame)
