"""Public functions take arrays as users have them, and refuse in one sentence what cannot be converted exactly."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch

from pipeline.errors import UsageError
from pipeline.geometry import describe

POINTS = np.random.default_rng(0).normal(size=(240, 6)).astype(np.float32)
GROUPS = np.arange(240) // 120
SHOWN = ("anisotropy", "id_twonn", "id_twonn_se", "n_tokens", "n_sink_tokens", "same_context_share")


def row(points: Any, **labels: Any) -> dict[str, object]:
    described = describe(points, recipe="quick@1", **labels)
    return {name: described[name] for name in SHOWN if described[name] is not None}


@pytest.fixture(scope="module")
def expected() -> dict[str, object]:
    return row(torch.from_numpy(POINTS.copy()), groups=torch.from_numpy(GROUPS))


def read_only(points: np.ndarray) -> np.ndarray:
    copy = points.copy()
    copy.flags.writeable = False
    return copy


@pytest.mark.parametrize(
    "form",
    [
        lambda x: x[::-1].copy()[::-1],
        lambda x: np.asfortranarray(x),
        lambda x: x.astype(">f4"),
        read_only,
        lambda x: np.repeat(x, 2, axis=1)[:, ::2],
        lambda x: np.ma.masked_array(x),
        pd.DataFrame,
        lambda x: pd.DataFrame(x).astype({0: "float32", 1: "Float32"}),
        lambda x: pl.DataFrame({f"d{i}": x[:, i] for i in range(x.shape[1])}),
        lambda x: torch.from_numpy(x.copy()).requires_grad_(),
        lambda x: torch.from_numpy(np.asfortranarray(x)),
    ],
)
def test_every_form_of_a_matrix_is_that_matrix(form: Callable[[np.ndarray], Any], expected: dict[str, object]) -> None:
    assert row(form(POINTS), groups=GROUPS) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("form", [np.ndarray.tolist, lambda x: x.astype(np.longdouble), lambda x: x.astype(">f8")])
def test_wider_forms_have_the_same_values(form: Callable[[np.ndarray], Any], expected: dict[str, object]) -> None:
    assert row(form(POINTS), groups=GROUPS) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("integers", ["int8", "uint8", ">i4", "int64"])
def test_integers_are_the_floats_of_the_same_values(integers: str) -> None:
    counts = (100 * np.abs(POINTS)).clip(0, 127).astype(integers)
    assert row(counts) == row(counts.astype(np.float64))


@pytest.mark.parametrize(
    "labels",
    [
        GROUPS.tolist(),
        GROUPS.astype(float),
        GROUPS.astype(">i2"),
        GROUPS.astype(bool),
        GROUPS.astype(np.uint8)[::-1].copy()[::-1],
        pd.Series(GROUPS),
        pl.Series(GROUPS),
        (2**60 + GROUPS).astype(object),
    ],
)
def test_every_form_of_labels(labels: Any, expected: dict[str, object]) -> None:
    assert row(POINTS, groups=labels) == pytest.approx(expected, rel=1e-6)


def test_three_dimensions_are_contexts_and_positions() -> None:
    cube = POINTS.reshape(12, 20, 6)
    flat = row(POINTS, groups=GROUPS, contexts=np.arange(240) // 20, positions=np.arange(240) % 20)
    assert flat["n_sink_tokens"] == 12
    for groups in (GROUPS, GROUPS.reshape(12, 20), GROUPS[::20]):
        assert row(cube, groups=groups) == pytest.approx(flat, rel=1e-6)
    assert row(cube, groups=GROUPS, positions=np.full(240, 5))["n_sink_tokens"] == 0


@pytest.mark.parametrize("scale", [1e-20, 1e20, 1e60])
def test_large_and_small_values_change_no_scale_free_metric(scale: float) -> None:
    wide = POINTS.astype(np.float64)
    plain, scaled = row(wide), row(wide * scale)
    assert scaled["anisotropy"] == pytest.approx(plain["anisotropy"], rel=1e-6)
    assert scaled["id_twonn"] == pytest.approx(plain["id_twonn"], rel=1e-6)


@pytest.mark.parametrize(
    ("points", "labels", "found"),
    [
        (POINTS.astype(np.float64) * 1e200, {}, "values up to .*Divide all points"),
        (POINTS, {"groups": GROUPS + 0.5}, "groups: 0.5 is not an integer"),
        (POINTS, {"groups": np.where(GROUPS == 1, np.nan, 0)}, "groups: nan is not an integer"),
        (POINTS, {"contexts": ["a"] * 240}, "contexts: cannot be read as numbers"),
        (POINTS, {"token_ids": GROUPS[:7]}, r"token_ids: shape \(7,\) for 240 points"),
        (POINTS, {"token_ids": GROUPS + 1j}, "token_ids: .* is not an integer"),
        (POINTS, {"token_ids": np.full(240, 1e30)}, "token_ids: values beyond 64-bit"),
        (POINTS.astype(np.float64) * 1e-200, {}, "values up to .*below 1e-75"),
        (POINTS > 0, {}, "type bool"),
        (np.full((240, 6), 2**53 + 1), {}, "integers beyond"),
        (POINTS.astype(complex), {}, "type complex128"),
        (POINTS[0], {}, r"shape \(6,\)"),
        (POINTS.reshape(2, 2, 60, 6), {}, "shape"),
        ([[1.0, 2.0], [3.0]], {}, "points: cannot be read as numbers"),
        ([["a", "b"]], {}, "points: cannot be read as numbers"),
        (pd.DataFrame({"x": [1.0], "y": ["a"]}), {}, "points: cannot be read as numbers"),
        (np.ma.masked_array(POINTS, POINTS > 1), {}, "some values are masked"),
        (POINTS.astype(object).astype(str).astype(object), {}, "is no number"),
        (POINTS, {"token_ids": np.array([None, *range(239)], object)}, "None is no number"),
        (POINTS, {"token_ids": np.array([0.0, 2**53 + 1, *range(238)], object)}, "9007199254740993 is no number"),
        (POINTS, {"token_ids": np.array([2**70, *range(239)], object)}, "token_ids: cannot be read as numbers"),
        (None, {}, "points: an array of shape|cannot be read as numbers"),
    ],
)
def test_what_cannot_be_converted_is_refused(points: Any, labels: dict[str, Any], found: str) -> None:
    with pytest.raises(UsageError, match=f"(?s){found}") as error:
        row(points, **labels)
    assert str(error.value).count("\n") == 1
