"""Flags of `describe` explain every null that it returns, on point clouds that provoke nulls."""

import pytest
import torch

from pipeline.columns import METRIC_GROUPS, column_names, explained_columns, is_null_by_definition
from pipeline.geometry import describe


def gaussian(points: int, dim: int = 16) -> torch.Tensor:
    return torch.randn(points, dim, generator=torch.Generator().manual_seed(0))


def with_nan(rows: torch.Tensor) -> torch.Tensor:
    rows[::3, 0] = torch.nan
    return rows


CLOUDS = {
    "sound": gaussian(600),
    "one point": gaussian(1),
    "two points": gaussian(2),
    "few points": gaussian(50),
    "all equal": torch.ones(300, 16),
    "all zero": torch.zeros(300, 16),
    "two distinct points": gaussian(2).repeat(150, 1),
    "three distinct points": gaussian(3).repeat(100, 1),
    "a line of ties": torch.arange(300.0)[:, None].repeat(1, 4),
    "one coordinate": gaussian(300, 1),
    "some NaN": with_nan(gaussian(600)),
    "all NaN": torch.full((300, 16), torch.nan),
    "one outlier": torch.cat([torch.zeros(299, 16), gaussian(1)]),
}


@pytest.mark.parametrize("labelled", [False, True], ids=["bare", "with contexts, tokens and groups"])
@pytest.mark.parametrize("rows", CLOUDS.values(), ids=CLOUDS)
def test_every_null_of_a_degenerate_cloud_has_a_flag(rows, labelled):
    """At depth 1, because a matrix has no next layer; loss columns are not part of geometry."""
    n = len(rows)
    labels = dict(contexts=torch.arange(n) // 4, token_ids=torch.arange(n) % 7, groups=torch.arange(n) * 2 // n)
    row = describe(rows.clone(), **labels if labelled else {})
    measured = set(column_names(*METRIC_GROUPS)) - set(column_names("loss"))
    nulls = {name for name in measured if row[name] is None and not is_null_by_definition(name, depth=1)}
    assert nulls <= explained_columns(row["flags"]), row["flags"]  # type: ignore[arg-type]
