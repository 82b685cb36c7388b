"""Callback in a real Trainer: readings on schedule and within the time budget, requests fulfilled by a watch."""

import json
from types import SimpleNamespace

import pytest
import torch

from pipeline.integrations import TrainerCallback
from pipeline.integrations.trainer import READINGS_FILE
from pipeline.lake import open_lake
from pipeline.sweep.measure_one import parse_corpus, parse_recipe
from pipeline.watch import watch_folder
from pipeline.watch.checkpoint_folder import REQUESTS_FOLDER
from tests.support import tiny_checkpoints as tiny
from tests.support import watched_history

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")


def trained(folder, callback=None, steps=4, with_log=None, report_to="none"):
    """Train for a few steps and save every second step; `with_log` makes a callback of the Trainer's log."""
    rows = torch.randint(tiny.VOCABULARY, (8, 16), generator=torch.Generator().manual_seed(0))
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        save_steps=2,
        per_device_train_batch_size=2,
        use_cpu=True,
        report_to=report_to,
        disable_tqdm=True,
        seed=0,
    )
    trainer = transformers.Trainer(
        model=tiny.model(0),
        args=arguments,
        train_dataset=[{"input_ids": row, "labels": row} for row in rows],
        processing_class=tiny.tokenizer(),
        callbacks=[callback] if callback else [],
    )
    if with_log:
        trainer.add_callback(with_log(trainer.log))
    trainer.train()
    return trainer


def test_a_trainer_measures_in_place_at_every_save(tmp_path):
    ids = torch.randint(tiny.VOCABULARY, (8, 32), generator=torch.Generator().manual_seed(1))
    callback = TrainerCallback(ids, points=120, share=1e9)
    trained(tmp_path, callback)
    lines = [json.loads(line) for line in (tmp_path / READINGS_FILE).read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4]
    assert [layer["layer"] for layer in lines[0]["layers"]] == [0, 1, 2]
    assert lines[0]["loss"] != lines[1]["loss"]
    assert callback.last_reading is not None
    assert callback.last_reading.loss == lines[1]["loss"]


def test_a_trainers_requests_are_answered_by_a_watch(tmp_path):
    trained(tmp_path / "run", TrainerCallback())
    assert {path.name for path in (tmp_path / "run" / REQUESTS_FOLDER).iterdir()} == {"checkpoint-2", "checkpoint-4"}
    text = tiny.text(tmp_path / "prose.txt")
    followed = watched_history.followed(tmp_path / "run")._replace(
        corpus=parse_corpus(f"text:{text}"), recipe=parse_recipe(json.dumps(tiny.RECIPE))
    )
    lines: list[str] = []
    assert watch_folder(followed, lines.append, 0.0, once=True) == 0
    assert [line.split()[0] for line in lines] == ["checkpoint-2", "checkpoint-4"]
    assert "id_twonn -" not in "".join(lines)
    assert not list((tmp_path / "run" / REQUESTS_FOLDER).iterdir())
    frame = open_lake(followed.lake.uri).query_frame("SELECT DISTINCT step FROM layers WHERE id_mle > 0 ORDER BY step")
    assert frame.rows() == [(2,), (4,)]


class Clock:
    """Fake clock: training takes one second per save, a reading takes `reading_s`."""

    def __init__(self, monkeypatch, reading_s):
        self.now, self.readings = 0.0, 0
        self._reading_s = reading_s
        monkeypatch.setattr("pipeline.integrations.trainer.time.perf_counter", lambda: self.now)

    def read(self, module):
        self.now += self._reading_s
        self.readings += 1
        return SimpleNamespace(loss=None, layers=())


@pytest.mark.parametrize(("reading_s", "readings"), [(0.005, 1000), (0.1, 100), (5.0, 2)])
def test_measuring_stays_within_its_share_of_the_time(tmp_path, monkeypatch, reading_s, readings):
    clock = Clock(monkeypatch, reading_s)
    callback = TrainerCallback(torch.zeros(8, 32, dtype=torch.long), share=0.01)
    callback._probe = clock
    arguments, control = SimpleNamespace(output_dir=str(tmp_path)), SimpleNamespace()
    callback.on_train_begin(arguments, SimpleNamespace(), control)
    for step in range(1000):
        clock.now += 1.0
        state = SimpleNamespace(is_world_process_zero=True, global_step=step)
        callback.on_save(arguments, state, control, model=object())
    assert clock.readings == pytest.approx(readings, abs=1)
    assert callback.spent_s <= max(0.01 * 1000, reading_s)


def test_readings_go_to_the_trainers_own_log_and_so_to_tensorboard(tmp_path, monkeypatch):
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "boards"))
    ids = torch.randint(tiny.VOCABULARY, (8, 32), generator=torch.Generator().manual_seed(1))
    trainer = trained(
        tmp_path,
        with_log=lambda log: TrainerCallback(ids, points=120, share=1e9, log=log),
        report_to="tensorboard",
    )
    logged = [entry for entry in trainer.state.log_history if "shape/loss" in entry]
    lines = [json.loads(line) for line in (tmp_path / READINGS_FILE).read_text().splitlines()]
    assert [entry["step"] for entry in logged] == [line["step"] for line in lines] == [2, 4]
    for entry, line in zip(logged, lines, strict=True):
        assert entry["shape/loss"] == line["loss"]
        assert [entry.get(f"shape/id_mle/layer_{n:02d}") for n in range(3)] == [one["id_mle"] for one in line["layers"]]
    events = b"".join(path.read_bytes() for path in (tmp_path / "boards").rglob("events.out*"))
    assert b"shape/anisotropy/layer_01" in events
