"""`describe`: columns, edge cases with status and flags, and invariances of the metrics."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pipeline.columns import column_names
from pipeline.errors import UsageError
from pipeline.geometry import describe, set_threads
from tests.support.point_clouds import brute, curved, rotation, zipf

METRICS = ("counts", "anisotropy", "spectrum", "norms", "dimension", "linearity")
ONE_LAYER = set(column_names("linearity"))
SURROGATE = {name for name in column_names("dimension") if "gaussian" in name}
ALPHA = {name for name in column_names("spectrum") if name.startswith("alpha")}
NORMED = {name for name in column_names() if "_normed" in name}
TYPES = {name for name in column_names("dimension") if "_types" in name}
COUNTS = ("n_points", "n_tokens", "n_duplicates")
SCALE_FREE = (
    *("anisotropy", "participation_ratio", "participation_ratio_corrected", "effective_rank_lambda", "alpha"),
    *("id_twonn", "id_mle", "id_mle_c50", "id_mle_c90", "id_lb20", "id_ks", "id_authors"),
)

points_seeds = st.integers(0, 50)


def flat(row: dict[str, object], columns: tuple[str, ...] = SCALE_FREE) -> dict[str, object]:
    return {column: row[column] for column in columns}


def cloud(seed: int) -> Tensor:
    return curved(300, 24, 4, seed).double()


def test_every_metric_column_is_there_and_nothing_else() -> None:
    """A row has the columns of the geometry groups, two timings, status and flags."""
    row = describe(curved(600, 16), torch.arange(600) // 10, torch.arange(600) % 7, groups=torch.arange(600) // 300)
    assert set(row) == {*column_names(*METRICS), "knn_s", "spectrum_s", "status", "flags"}
    assert row["status"] == "ok"
    null = {name for name in column_names(*METRICS) if row[name] is None}
    assert null == ONE_LAYER | SURROGATE | ALPHA | TYPES | NORMED | {"id_authors_se"}
    assert row["flags"] == ["alpha_range", "few_points", "too_few_types"]


def edges() -> dict[str, tuple[Tensor, str, str]]:
    """Return clouds with the status and a flag that they must get."""
    base = curved(600, 16)
    nan = base.clone()
    nan[5, 5] = torch.nan
    return {
        "constant": (torch.full((600, 16), 3.7), "degenerate", "constant_layer"),
        "zero": (torch.zeros(600, 16), "degenerate", "constant_layer"),
        "few distinct": (zipf(3000, 60), "degenerate", "too_few_points"),
        "one row": (base[:1], "degenerate", "too_few_tokens"),
        "two rows": (base[:2], "degenerate", "too_few_points"),
        "one NaN": (nan, "nonfinite", "nonfinite_rows"),
        "all NaN": (base * torch.nan, "nonfinite", "too_few_tokens"),
        "low rank": (base[:, :3] @ torch.ones(3, 16), "ok", "spectrum_floor"),
        "wide": (torch.randn(600, 700, generator=torch.Generator().manual_seed(0)), "ok", "spectrum_floor"),
        "bfloat16 with offset": ((base + 30).to(torch.bfloat16), "ok", "quantised"),
        "float16 with offset": ((base + 100).to(torch.float16), "ok", "quantised"),
        "one column": (base[:, :1], "ok", "alpha_range"),
    }


@pytest.mark.parametrize("name", edges())
def test_honest_edges(name: str) -> None:
    """Edge cases get their status and flag, and no value is NaN or infinite."""
    points, status, flag = edges()[name]
    row = describe(points, contexts=torch.arange(len(points)) // 10)
    assert row["status"] == status
    assert flag in row["flags"]
    for column, value in row.items():
        for number in value if isinstance(value, list) else [value]:
            assert not isinstance(number, float) or np.isfinite(number), column


def test_numpy_and_torch_agree() -> None:
    """An array and a tensor that requires a gradient give equal metrics."""
    points = curved(400, 12)
    expected = flat(describe(points), (*SCALE_FREE, *COUNTS))
    assert flat(describe(points.numpy()), (*SCALE_FREE, *COUNTS)) == expected
    assert flat(describe(points.clone().requires_grad_()), (*SCALE_FREE, *COUNTS)) == expected


def test_rows_at_position_zero_are_sinks_and_without_positions_none_is() -> None:
    """The first of subsampled positions opens no context unless it is position 0."""
    context, position = torch.arange(600).flip(0) % 20, torch.arange(600).flip(0) // 20
    points = curved(600, 16)
    assert describe(points, contexts=context, positions=position)["n_sink_tokens"] == 20
    assert describe(points, contexts=context, positions=position + 3)["n_sink_tokens"] == 0
    assert describe(points, contexts=context)["n_sink_tokens"] == 0


def test_neighbour_shares() -> None:
    """Tight contexts give share 1; the token share equals brute force over first and second neighbours."""
    centers = 100 * torch.randn(60, 1, 16, generator=torch.Generator().manual_seed(1))
    points = (centers + torch.randn(60, 10, 16, generator=torch.Generator().manual_seed(2))).flatten(0, 1)
    row = describe(points, contexts=torch.arange(600) // 10, token_ids=torch.arange(600) % 2)
    assert row["same_context_share"] == 1
    neighbours = brute(points, 2)[1]
    assert row["same_token_share"] == float((neighbours % 2 == torch.arange(600)[:, None] % 2).double().mean())
    assert describe(points)["same_context_share"] is None


def test_groups_may_be_interleaved_and_named_freely() -> None:
    """Order and values of group labels have no effect."""
    points, groups = curved(800, 16), torch.arange(800) % 4
    by_name = describe(points, groups=groups * 10 - 7)
    sorted_ = describe(points[groups.argsort(stable=True)], groups=groups.sort().values)
    columns = ("id_twonn", "id_twonn_se", "anisotropy", "anisotropy_se")
    assert flat(by_name, columns) == pytest.approx(flat(sorted_, columns), rel=1e-12)


@pytest.mark.parametrize(
    ("points", "labels", "found"),
    [
        (torch.zeros(3), None, "shape (3,)"),
        (torch.zeros(0, 4), None, "shape (0, 4)"),
        (torch.zeros(3, 4, dtype=torch.bool), None, "bool"),
        (torch.zeros(3, 4), [1, 2], "shape (2,) for 3 points"),
    ],
)
def test_wrong_input_says_what_is_wrong(points: Tensor, labels: list[int] | None, found: str) -> None:
    """The error states what was found and what to give."""
    with pytest.raises(UsageError, match=r"Give") as error:
        describe(points, contexts=labels)
    assert found in str(error.value)


@settings(max_examples=8, deadline=None)
@given(points_seeds, st.floats(-3, 3))
def test_shifts_leave_everything_centered(seed: int, exponent: float) -> None:
    """Adding a constant vector does not change centered metrics."""
    points = cloud(seed)
    moved = describe(points + 10.0**exponent)
    assert flat(moved) == pytest.approx(flat(describe(points)), rel=1e-6)  # float64 rows; measured: 1e-9


@settings(max_examples=8, deadline=None)
@given(points_seeds, st.integers(-30, 30))
def test_scales_leave_everything_scale_free(seed: int, exponent: int) -> None:
    """Scaling by a power of two does not change scale-free metrics."""
    points = cloud(seed)
    assert flat(describe(points * 2.0**exponent)) == pytest.approx(flat(describe(points)), rel=1e-12)


@settings(max_examples=8, deadline=None)
@given(points_seeds)
def test_rotation_leaves_everything(seed: int) -> None:
    """Rotation and padding with zero columns change no metric except those of single coordinates."""
    points = cloud(seed)
    expected = flat(describe(points), (*SCALE_FREE, "cosine_mean", "effective_rank_sigma"))
    for moved in (points @ rotation(24, seed), torch.cat([points, torch.zeros(300, 5).double()], 1)):
        row = describe(moved)
        assert flat(row, tuple(expected)) == pytest.approx(expected, rel=1e-6)


@settings(max_examples=8, deadline=None)
@given(points_seeds)
def test_order_is_irrelevant(seed: int) -> None:
    """Permuting rows changes metrics by rounding only."""
    points = cloud(seed)
    mixed = points[torch.randperm(300, generator=torch.Generator().manual_seed(seed))]
    assert flat(describe(mixed)) == pytest.approx(flat(describe(points)), rel=1e-9)


@settings(max_examples=8, deadline=None)
@given(points_seeds, st.integers(1, 200))
def test_duplicated_rows_leave_the_dimension(seed: int, copies: int) -> None:
    """Duplicates change no estimate except `id_authors`, which is known to be biased by duplicates."""
    points = cloud(seed)
    columns = ("id_twonn", "id_mle", "id_mle_c50", "id_lb20", "id_gride", "id_ks", "n_points", "mu_quantiles")
    both = describe(torch.cat([points, points[:copies]]))
    assert both["n_duplicates"] == copies
    for column, value in flat(describe(points), columns).items():
        assert both[column] == pytest.approx(value, rel=1e-12)


def test_threads_change_nothing_that_matters() -> None:
    """Equal thread counts give equal bytes; other counts differ by at most 1e-9."""
    points, groups = curved(2000, 64), torch.arange(2000) // 1000
    threads = torch.get_num_threads()
    rows = []
    try:
        for n in (1, 1, 2):
            torch.set_num_threads(n)
            set_threads(n)
            row = describe(points, groups=groups)
            rows.append({name: row[name] for name in column_names(*METRICS)})
    finally:
        torch.set_num_threads(threads)
        set_threads(threads)
    assert rows[0] == rows[1]
    for name in (name for name in column_names(*METRICS) if rows[0][name] is not None):
        assert rows[2][name] == pytest.approx(rows[0][name], rel=1e-9), name
