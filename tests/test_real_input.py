"""README's sweep on a real history: 11 checkpoints, text and random tokens, `quick@1`, through local Ray."""

import pytest
import yaml

from pipeline import lake as lakes
from pipeline.lake import Lake
from pipeline.spec import Sweep
from pipeline.sweep.plan import make_plan
from pipeline.sweep.run import run

SWEEP = """
name: wiki
checkpoints: [{{local: {history}}}]
corpora: [{{enwik8-raw: {text}}}, {{random-uniform: {{}}}}]
recipe: quick@1
resources: {{gpus: 0, cpus: 2, slots: 1, batch_tokens: 8192}}
"""


@pytest.mark.slow
def test_eleven_checkpoints_on_two_corpora_give_eight_rows_each(shared, tmp_path):
    text = SWEEP.format(history=shared("histories/wiki-neox"), text=shared("data/enwik5"))
    wanted = Sweep.model_validate(yaml.safe_load(text))
    lake = Lake(tmp_path / "lake")
    report = run(make_plan(wanted, lake), lake, "ray")
    assert report.exit_code == 0
    reader = lakes.open_lake(lake.uri)
    counts = reader.sql(
        "select count(*), count(distinct step), count(distinct corpus), count(distinct layer) from layers"
    )
    assert counts.fetchall() == [(11 * 2 * 8, 11, 2, 8)]
    odd = reader.sql("select step, corpus, layer, status, flags from layers where status <> 'ok' and len(flags) = 0")
    assert odd.fetchall() == []
    losses = reader.sql("select step, loss, loss_se from layers where corpus = 'enwik8-raw' and layer = 0").fetchall()
    assert all(5 < loss < 9 and 0 < error < 0.2 for _, loss, error in losses)
    nearest = "select max(abs(a.id_twonn - b.id_twonn) / sqrt(a.id_twonn_se ** 2 + b.id_twonn_se ** 2))"
    pairs = "from layers a join layers b using (corpus, layer) where a.step = 0 and b.step = 1 and a.layer > 0"
    ((distance,),) = reader.sql(f"{nearest} {pairs}").fetchall()
    assert distance < 5, "one training step changes no dimension significantly"
