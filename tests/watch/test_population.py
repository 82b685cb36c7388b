"""A live run against the runs of its size: its place, the alarm, and the alarm's measured rate."""

import numpy as np
import pytest

from pipeline import lake as lakes
from pipeline.errors import UsageError
from pipeline.lake import Lake
from pipeline.spec import Cell, Corpus, built_in_recipe
from pipeline.watch import AlertRule
from pipeline.watch.alert_rules import LayerSelection
from pipeline.watch.alerts import describe_population, fire_alerts
from pipeline.watch.population import MIN_RUNS, PopulationCurves, load_populations, measure_departure
from tests.support import lake_rows

STEPS = (0, 4)
BLOCKS = LayerSelection.parse("blocks")


def simulate(random: np.random.Generator, runs: int, steps: int) -> np.ndarray:
    """[runs, steps]: exchangeable runs of heavy-tailed noise, correlated over steps, around one curve."""
    noise = random.standard_t(3, (runs, steps))
    for step in range(1, steps):
        noise[:, step] += 0.8 * noise[:, step - 1]
    return np.linspace(0, 5, steps) + random.standard_normal((runs, 1)) + noise


def ever_alarms(values: np.ndarray) -> bool:
    """True if the first run is alarmed at any of its checkpoints, looked at one after the other."""
    curves = [dict(enumerate(map(float, run))) for run in values]
    looks = ({step: curves[0][step] for step in range(last + 1)} for last in range(values.shape[1]))
    return any(measure_departure(live, curves[1:]).is_alarm for live in looks)


@pytest.mark.parametrize(
    ("others", "steps"), [(MIN_RUNS, 10), (39, 10), pytest.param(MIN_RUNS, 30, marks=pytest.mark.slow)]
)
def test_exchangeable_runs_are_alarmed_in_at_most_five_percent(others, steps):
    """Over all looks at a history; 1 / (n + 1) by construction, plus three binomial standard errors."""
    random, histories = np.random.default_rng(others + steps), 300
    rate = np.mean([ever_alarms(simulate(random, others + 1, steps)) for _ in range(histories)])
    expected = 1 / (others + 1)
    print(f"{others} other runs, {steps} checkpoints: alarmed {rate:.1%} of {histories} (at most {expected:.1%})")
    assert rate <= expected + 3 * np.sqrt(expected * (1 - expected) / histories)


def test_a_run_that_leaves_the_others_is_alarmed():
    random = np.random.default_rng(0)
    found = 0
    for _ in range(50):
        values = simulate(random, MIN_RUNS + 1, 10)
        values[0, 5:] += 60
        found += ever_alarms(values)
    print(f"a departure by 60 is found in {found / 50:.0%}")
    assert found >= 45


def test_runs_without_a_common_step_or_without_spread_never_alarm():
    same = [{0: 1.0, 1: 1.0} for _ in range(MIN_RUNS)]
    assert not measure_departure({0: 5.0}, same).is_alarm
    assert not measure_departure({7: 5.0}, [{1: 1.0}, {2: 2.0}]).is_alarm
    assert measure_departure({0: 1.0}, []).runs == 0


def test_a_rule_about_the_population_is_parsed_and_printed():
    rule = AlertRule.parse("id_mle!population")
    assert str(rule) == "id_mle@blocks!population"
    assert AlertRule.parse(str(rule)) == rule
    assert not rule.fires(100.0)
    for text in ("id_ml!population", "id_mle@x!population", "id_mle@blocks!populaton"):
        with pytest.raises(UsageError):
            AlertRule.parse(text)


def lake_of_runs(folder, runs: int, live_value: float = 10.0) -> tuple[Lake, Cell]:
    """Lake of `runs` other runs and a live one, of one size; the cell is the live run's last."""
    lake = Lake(folder)
    lake.record_recipe(lake_rows.QUICK)
    random = np.random.default_rng(0)
    for number in range(runs + 1):
        for step in STEPS:
            point = lake_rows.checkpoint(step, model=f"lab/seed{number}")
            cell = lake_rows.cell(point)
            value = live_value if number == runs and step == STEPS[-1] else 10 + random.standard_normal()
            rows = [
                row | {"n_params": 10**6, "id_mle": value, "id_mle_se": 0.1, "id_twonn": value, "id_twonn_se": 0.1}
                for row in lake_rows.rows(cell)
            ]
            assert lake.commit(cell.id, point.model_key, lakes.to_table(rows, {}))
            lake.record_labels([point])
    return lake, cell


def test_the_place_among_the_runs_of_its_size_is_told(tmp_path):
    lake, cell = lake_of_runs(tmp_path, 4, live_value=30.0)
    (line,) = describe_population(lake, cell, BLOCKS, ())
    assert line.startswith("runs of its size: id_twonn above 4 of 4 (")
    assert len(load_populations(lake, cell, [("id_mle", BLOCKS)])[0].others) == 4


def test_an_alarm_is_not_offered_with_too_few_runs_and_says_why(tmp_path):
    lake, cell = lake_of_runs(tmp_path, 4, live_value=300.0)
    rules = [AlertRule.parse("id_mle!population")]
    assert fire_alerts(lake, cell, rules) == []
    line = describe_population(lake, cell, BLOCKS, rules)[-1]
    assert "is not offered: at most 5 % false alarms need 19 other runs of its size, the lake has 4" in line


def test_a_run_outside_of_its_population_fires_once(tmp_path):
    lake, cell = lake_of_runs(tmp_path, MIN_RUNS, live_value=300.0)
    rules = [AlertRule.parse("id_mle!population")]
    (alert,) = fire_alerts(lake, cell, rules)
    assert "times as far as any of these does" in str(alert)
    assert fire_alerts(lake, cell, rules) == []


def test_a_run_inside_of_its_population_does_not_fire(tmp_path):
    lake, cell = lake_of_runs(tmp_path, MIN_RUNS)
    assert fire_alerts(lake, cell, [AlertRule.parse("id_mle!population")]) == []


def test_a_lake_without_other_runs_tells_nothing(tmp_path):
    lake, cell = lake_of_runs(tmp_path, 0)
    assert describe_population(lake, cell, BLOCKS, ()) == []


def test_other_texts_recipes_and_sizes_are_no_population(tmp_path):
    lake, cell = lake_of_runs(tmp_path, 4)
    other = Cell(
        checkpoint=cell.checkpoint,
        kind="decoder",
        corpus=Corpus(kind="random-unigram", path="x"),
        recipe=built_in_recipe("quick@1"),
    )
    assert load_populations(lake, other, [("id_mle", BLOCKS)])[0].others == []


def test_a_run_that_lacks_the_steps_is_left_out_and_the_alarm_stays():
    others = [{0: float(value), 4: float(value)} for value in range(MIN_RUNS)]
    for short in ({0: 1.0}, {8: 1.0}):
        departure = measure_departure({0: 5.0, 4: 500.0}, [*others, short])
        assert departure.is_alarm
        assert departure.runs == MIN_RUNS
    odd = PopulationCurves({0: 5.0, 4: 500.0, 5: 5.0}, others)
    assert odd.depart().is_alarm, "a step that no other has is ignored"
    assert odd.explain_no_alarm() == "most other runs of its size lack step 5"


def add_run(lake: Lake, number: int, steps=STEPS, layers=slice(None), **changes) -> None:
    """Add a run of the same size; `changes` are fields of these of its blocks."""
    for step in steps:
        point = lake_rows.checkpoint(step, model=f"lab/extra{number}")
        cell = lake_rows.cell(point)
        own = {"n_params": 10**6, "id_mle": 10.0 + number, "id_mle_se": 0.1, "id_twonn": 9.0, "id_twonn_se": 0.1}
        first, *blocks = [row | own for row in lake_rows.rows(cell)]
        changed = [row | changes for row in blocks[layers]]
        rows = [first, *changed, *(row for row in blocks if row not in blocks[layers])]
        assert lake.commit(cell.id, point.model_key, lakes.to_table(rows, {}))
        lake.record_labels([point])


def test_a_short_run_in_the_lake_does_not_silence_the_alarm(tmp_path):
    lake, cell = lake_of_runs(tmp_path, MIN_RUNS, live_value=300.0)
    add_run(lake, 1, steps=(777,))
    rules = [AlertRule.parse("id_mle!population")]
    assert not any("is not offered" in line for line in describe_population(lake, cell, BLOCKS, rules))
    assert len(fire_alerts(lake, cell, rules)) == 1


def test_the_line_says_how_many_runs_have_the_steps(tmp_path):
    lake, cell = lake_of_runs(tmp_path, MIN_RUNS - 1, live_value=300.0)
    add_run(lake, 1, steps=STEPS[:1])
    rules = [AlertRule.parse("id_mle!population")]
    assert fire_alerts(lake, cell, rules) == []
    line = describe_population(lake, cell, BLOCKS, rules)[-1]
    assert line.endswith("19 other runs of its size, the lake has 19, of which 18 have the steps of this run")


@pytest.mark.parametrize(
    "changes", [{"recipe_fingerprint": "other"}, {"algorithm": 5}, {"n_params": 2 * 10**6}, {"d_model": 8}]
)
def test_only_runs_measured_alike_are_the_population(tmp_path, changes):
    lake, cell = lake_of_runs(tmp_path, 3)
    add_run(lake, 1, **changes)
    assert len(load_populations(lake, cell, [("id_mle", BLOCKS)])[0].others) == 3


def test_a_checkpoint_without_a_value_in_one_block_has_no_mean(tmp_path):
    """A block in which no run has a value is not needed, such as the last one for linearity."""
    lake, cell = lake_of_runs(tmp_path, 3)
    add_run(lake, 1, layers=slice(0, 1), id_mle=None, flags=["tied_distances"])
    assert len(load_populations(lake, cell, [("id_mle", BLOCKS)])[0].others) == 3
    assert len(load_populations(lake, cell, [("id_twonn", BLOCKS)])[0].others) == 4
