"""For transformers' Trainer: at every save ask a running `shapelake watch`, or measure in place on a fixed batch."""

import json
import time
from pathlib import Path
from typing import Any

from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedModel
from transformers import TrainerCallback as Base
from transformers.trainer_callback import TrainerControl, TrainerState
from transformers.training_args import TrainingArguments

from pipeline.integrations.probe import Probe, Reading
from pipeline.watch.checkpoint_folder import REQUESTS_FOLDER

READINGS_FILE = "shape.jsonl"
MAX_TIME_SHARE = 0.01
"""Most of the training time that measuring in place may add."""


class TrainerCallback(Base):
    """Without `ids`, names each saved checkpoint to a watch on the output folder; with them, reads the live model.

    A reading is skipped where it would take measuring beyond `share` of the training time so far, by what the last
    one took. Each is a line of `shape.jsonl` in the output folder; the latest is `last`, which a loop may act upon.

    Args:
        ids: [contexts, tokens] to be read, held out from training.
        points: of the k-NN cloud.
        share: the time budget.
    """

    def __init__(
        self, ids: Int[Tensor, "contexts tokens"] | None = None, points: int = 1024, share: float = MAX_TIME_SHARE
    ):
        self.last_reading: Reading | None = None
        self.spent_s = 0.0
        self._probe = None if ids is None else Probe(ids, points)
        self._share, self._cost_s = share, 0.0
        self._started = time.perf_counter()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._started = time.perf_counter()

    def on_save(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: PreTrainedModel | None = None,
        **kwargs: Any,
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
        """The first reading always is: nobody knows yet what it takes."""
        trained = time.perf_counter() - self._started - self.spent_s
        return self.spent_s == 0 or self.spent_s + self._cost_s <= self._share * trained

    def _read(self, model: PreTrainedModel, step: int, file: Path) -> None:
        assert self._probe is not None
        started = time.perf_counter()
        self.last_reading = self._probe.read(model)
        self._cost_s = time.perf_counter() - started
        self.spent_s += self._cost_s
        layers = [shape._asdict() for shape in self.last_reading.layers]
        with file.open("a") as lines:
            lines.write(json.dumps({"step": step, "loss": self.last_reading.loss, "layers": layers}) + "\n")


def _request_measurement(folder: Path, name: str) -> None:
    (folder / REQUESTS_FOLDER).mkdir(parents=True, exist_ok=True)
    (folder / REQUESTS_FOLDER / name).touch()
