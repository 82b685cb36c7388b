"""Callback for transformers' Trainer: on every save, request a `shapelake watch` or measure in process."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel
from transformers import TrainerCallback as Base
from transformers.trainer_callback import TrainerControl, TrainerState
from transformers.training_args import TrainingArguments

from pipeline.integrations.probe import Probe, Reading
from pipeline.watch.checkpoint_folder import REQUESTS_FOLDER

Log = Callable[[dict[str, float]], None]
READINGS_FILE, LOG_PREFIX = "shape.jsonl", "shape"
MAX_TIME_SHARE = 0.01
"""Maximum share of the training time spent on measuring in process."""


class TrainerCallback(Base):
    """Requests measurement of each saved checkpoint by a watch on the output folder; with `ids`, probes the live model.

    A reading is skipped if it would exceed `share` of the training time so far, judged by the duration of the last
    reading. Each reading is a line of `shape.jsonl` in the output folder and is stored in `last_reading`. With `log` it
    also goes to the Trainer's own log: `trainer.add_callback(TrainerCallback(ids, log=trainer.log))`.

    Args:
        ids: [contexts, tokens] for the probe, held out from training.
        points: maximum points of the probe's cloud.
        share: maximum share of the training time spent on readings.
        log: the `log` method of the Trainer, which writes to its history and to W&B, TensorBoard and the like. The
            Trainer does not pass itself to callbacks, so it must be given.
    """

    def __init__(self, ids: Any = None, points: int = 1024, share: float = MAX_TIME_SHARE, log: Log | None = None):
        self.last_reading: Reading | None = None
        self.spent_s = 0.0
        self._probe = None if ids is None else Probe(ids, points)
        self._share, self._cost_s, self._log = share, 0.0, log
        self._started = time.perf_counter()

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._started = time.perf_counter()

    def on_save(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: PreTrainedModel | None = None,
        **_: Any,
    ) -> None:
        if not state.is_world_process_zero:
            return
        folder = Path(args.output_dir or ".")
        if self._probe is None:
            _request_measurement(folder, f"checkpoint-{state.global_step}")
        elif model is not None and self._affordable:
            self._read(model, state.global_step, folder / READINGS_FILE)

    @property
    def _affordable(self) -> bool:
        """True if the next reading fits into the time budget; always for the first, whose duration is unknown."""
        trained = time.perf_counter() - self._started - self.spent_s
        return self.spent_s == 0 or self.spent_s + self._cost_s <= self._share * trained

    def _read(self, model: PreTrainedModel, step: int, file: Path) -> None:
        assert self._probe is not None
        started = time.perf_counter()
        self.last_reading = self._probe.read(model)
        self._cost_s = time.perf_counter() - started
        self.spent_s += self._cost_s
        layers = [layer._asdict() for layer in self.last_reading.layers]
        with file.open("a") as lines:
            lines.write(json.dumps({"step": step, "loss": self.last_reading.loss, "layers": layers}) + "\n")
        if self._log:
            self._log(_to_log_values(self.last_reading))


def _to_log_values(reading: Reading) -> dict[str, float]:
    """Return the known values of a reading by log name, such as `shape/id_mle/layer_03`."""
    values = {f"{LOG_PREFIX}/loss": reading.loss}
    for layer in reading.layers:
        fields = layer._asdict()
        number = fields.pop("layer")
        values |= {f"{LOG_PREFIX}/{name}/layer_{number:02d}": value for name, value in fields.items()}
    return {name: value for name, value in values.items() if value is not None}


def _request_measurement(folder: Path, name: str) -> None:
    (folder / REQUESTS_FOLDER).mkdir(parents=True, exist_ok=True)
    (folder / REQUESTS_FOLDER / name).touch()
