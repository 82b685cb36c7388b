"""Contract of every metric group: columns, nulls with a reason, documentation."""

import math
from collections import Counter

import pytest
import torch
from torch import Tensor

from pipeline.columns import METRIC_GROUPS, column_names, explained_columns, is_null_by_definition
from pipeline.geometry import MomentStream, PointCloud
from pipeline.geometry.layer import Layer
from pipeline.geometry.metrics import MetricGroup, metric_groups
from pipeline.metric_docs import find_metrics
from pipeline.recipe import ContextRecipe
from tests.support.point_clouds import curved, zipf

RECIPE = ContextRecipe(
    name="contract", version=1, groups=2, contexts=1, context_tokens=2, kept_per_context=1, k=8, surrogate=True
)
"""Recipe with every option enabled, so that no null is due to an option."""


def layer_of(points: Tensor) -> Layer:
    """Return a layer with two groups, contexts of ten rows, token ids and a next layer."""
    group = (torch.arange(len(points)) >= len(points) // 2).long()
    context = torch.arange(len(points)) // 10
    stream = MomentStream([points.shape[1]] * 2, group.bincount(minlength=2).tolist(), 8.0, following=[1, None])
    stream.add_states(0, points)
    stream.add_states(1, points.roll(1, 1).tanh())
    stream.end_batch(torch.arange(len(points)) % 10 == 0, group)
    cloud = PointCloud(len(points), points.shape[1], points.dtype)
    cloud.append(points, context, context % 7, group)
    return Layer(stream.finish()[0], cloud, RECIPE, lambda rows: torch.nn.functional.layer_norm(rows, rows.shape[1:]))


def clouds() -> dict[str, Tensor]:
    base = curved(400, 16)
    bad = base.clone()
    bad[::7, 3], bad[5, 1] = torch.nan, -torch.inf
    mostly_tied = torch.cartesian_prod(*[torch.arange(4.0)] * 4).repeat(2, 1)
    mostly_tied[:4] += 0.01 * torch.arange(16.0).view(4, 4)
    two_places = torch.zeros(400, 16)
    two_places[200:] = 1
    return {
        "ordinary": base,
        "constant": torch.full((400, 16), 3.7),
        "zero": torch.zeros(400, 16),
        "constant in each group": two_places,
        "wide": torch.randn(240, 300, generator=torch.Generator().manual_seed(0)),
        "one row": base[:1],
        "two rows": base[:2],
        "three rows": base[:3],
        "rank two": base[:, :2] @ torch.tensor([[1.0] * 16, [1.0, -1.0] * 8]),
        "rank one": base[:, :1] * torch.ones(16),
        "one column": base[:, :1],
        "every row twice": base.repeat_interleave(2, 0),
        "few distinct rows": zipf(400, 30, dim=16),
        "mostly tied": mostly_tied,
        "non-finite rows": bad,
        "no finite row": base * torch.nan,
        "bfloat16 with offset": (base + 100).to(torch.bfloat16),
        "float16 with offset": (base + 1000).to(torch.float16),
    }


def by_name(group: MetricGroup) -> str:
    return group.__name__.rpartition(".")[2]


@pytest.mark.parametrize("group", metric_groups(), ids=by_name)
@pytest.mark.parametrize("name", clouds())
def test_every_column_has_a_finite_value_or_a_reason(group: MetricGroup, name: str) -> None:
    """`measure` returns exactly COLUMNS; a flag explains every null, and no value is NaN or infinite."""
    layer = layer_of(clouds()[name])
    row = group.measure(layer)
    assert set(row) == set(group.COLUMNS)
    for column, value in row.items():
        explained = column in explained_columns(layer.flags) or is_null_by_definition(column, depth=0.5)
        assert value is not None or explained, column
        for number in value if isinstance(value, list) else [value]:
            assert not isinstance(number, float) or math.isfinite(number), column


def test_every_metric_column_belongs_to_one_module() -> None:
    """The modules return exactly the geometry columns of columns.csv, each column once."""
    owned = Counter(column for group in metric_groups() for column in group.COLUMNS)
    assert set(owned) == set(column_names(*(group for group in METRIC_GROUPS if group != "loss")))
    assert set(owned.values()) == {1}


@pytest.mark.parametrize("group", metric_groups(), ids=by_name)
def test_its_time_has_a_column(group: MetricGroup) -> None:
    assert group.TIMING_COLUMN in column_names("cost")


@pytest.mark.parametrize("name", column_names(*METRIC_GROUPS))
def test_every_metric_says_where_it_comes_from_and_how_it_errs(name: str) -> None:
    (metric,) = find_metrics(name)
    assert metric.meaning
    assert len(metric.source) > 5
    assert metric.bias.endswith(".")
