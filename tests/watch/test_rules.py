"""Grammar of alert rules, and the standardized change, checked against arithmetic by hand."""

import pytest

from pipeline.errors import UsageError
from pipeline.watch.alert_rules import AlertRule, LayerSelection, MetricMean, mean_over_layers, standardized_change

ROWS = [
    {"layer": layer, "state": "block" if 0 < layer < 5 else "other", "id_mle": 10.0 * layer, "id_mle_se": 0.1 * layer}
    for layer in range(6)
]


@pytest.mark.parametrize(
    ("text", "metric", "layers", "bound"),
    [
        ("id_mle>4", "id_mle", "blocks", 4.0),
        ("anisotropy@3-9<-5.5", "anisotropy", "3-9", -5.5),
        (" loss@all > 6 ", "loss", "all", 6.0),
    ],
)
def test_a_rule_says_metric_layers_and_bound(text, metric, layers, bound):
    rule = AlertRule.parse(text)
    assert (rule.metric, rule.layers.text, rule.bound) == (metric, layers, bound)
    assert AlertRule.parse(str(rule)) == rule


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("id_mle", "METRIC[@LAYERS]"),
        ("id_mle>-4", "METRIC[@LAYERS]"),  # a rise with a negative bound
        ("id_mle>0", "METRIC[@LAYERS]"),
        ("id_mel>4", "did you mean 'id_mle'?"),
        ("n_points>4", "'n_points'"),
        ("id_mle@9-3>4", "'9-3'"),
        ("id_mle@middle>4", "'middle'"),
    ],
)
def test_an_invalid_rule_is_refused_in_two_lines(text, says):
    with pytest.raises(UsageError) as error:
        AlertRule.parse(text)
    assert says in str(error.value)
    assert len(str(error.value).splitlines()) == 2


@pytest.mark.parametrize(
    ("layers", "mean", "error"), [("blocks", 25, 0.25), ("all", 25, 0.25), ("3-4", 35, 0.35), ("2", 20, 0.2)]
)
def test_a_value_is_the_mean_over_layers_and_of_their_errors(layers, mean, error):
    found = mean_over_layers("id_mle", LayerSelection.parse(layers), ROWS)
    assert found == pytest.approx((mean, error))


def test_without_a_layer_or_its_number_there_is_no_value():
    assert mean_over_layers("id_mle", LayerSelection.parse("7"), ROWS) is None
    assert mean_over_layers("id_mle", LayerSelection.parse("blocks"), [ROWS[1] | {"id_mle": None}]) is None


def values(*means: float, error: float | None = 0.5) -> list[MetricMean | None]:
    return [MetricMean(mean, error) for mean in means]


def test_change_is_in_standard_errors_where_the_past_is_quieter():
    assert standardized_change(MetricMean(13.0, 0.5), values(10, 10, 10, 10, 12)) == pytest.approx(3 / 0.5)


def test_change_is_in_the_spread_of_the_past_where_that_is_larger():
    assert standardized_change(MetricMean(13.0, 0.5), values(6, 8, 10, 12, 14)) == pytest.approx(3 / (1.4826 * 2))


def test_only_the_last_eight_count_and_four_are_needed():
    assert standardized_change(MetricMean(13.0, 0.5), values(*[1000.0] * 9, *[10.0] * 8)) == pytest.approx(6)
    assert standardized_change(MetricMean(13.0, 0.5), values(10, 10, 10)) is None
    assert standardized_change(MetricMean(13.0, 0.5), [None, None, *values(10, 10, 10)]) is None
    assert standardized_change(MetricMean(13.0, None), values(10, 10, 10, 10)) is None


def test_a_rule_fires_beyond_its_bound_on_its_own_side():
    rises, falls = AlertRule.parse("id_mle>4"), AlertRule.parse("id_mle<-4")
    assert [rule.fires(at) for rule in (rises, falls) for at in (4.1, 4.0, -4.1, None)] == [
        *(True, False, False, False),
        *(False, False, True, False),
    ]
