"""Callback for the Trainer of transformers that has the model measured whenever a checkpoint is saved.

It asks a running `shapelake watch` to measure the checkpoint, or measures the live model in the training process.
"""

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
    """Callback that has the model measured at each save: by a watch on the output folder or, with `ids`, by a probe.

    The watch measures the saved checkpoint. The probe measures the live model in the training process.

    A reading of the probe is skipped if all readings would then take more than `share` of the training time so far; the
    last reading tells how long the next one takes. Each reading is stored in `last_reading` and written as a line of
    `shape.jsonl` in the output folder. With `log`, it is also written to the Trainer's own log:
    `trainer.add_callback(TrainerCallback(ids, log=trainer.log))`.

    Args:
        ids: token ids `[contexts, tokens]` for the probe, held out from training; None = no probe.
        points: maximum number of points of the probe's k-NN cloud.
        share: maximum share of the training time that readings may take.
        log: the `log` method of the Trainer, which writes to its history and to W&B, TensorBoard and the like. It must
            be given, because the Trainer does not pass itself to callbacks.
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
        """True if the next reading fits into the time budget. The first one always does; its duration is unknown."""
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
    """Return the values of a reading that are not None, by their names in the log, such as `shape/id_mle/layer_03`."""
    values = {f"{LOG_PREFIX}/loss": reading.loss}
    for layer in reading.layers:
        fields = layer._asdict()
        number = fields.pop("layer")
        values |= {f"{LOG_PREFIX}/{name}/layer_{number:02d}": value for name, value in fields.items()}
    return {name: value for name, value in values.items() if value is not None}


def _request_measurement(folder: Path, name: str) -> None:
    (folder / REQUESTS_FOLDER).mkdir(parents=True, exist_ok=True)
    (folder / REQUESTS_FOLDER / name).touch()
