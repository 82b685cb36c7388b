"""Overhead of probing a model in training once per 500 steps, which is how often the Trainer saves by default."""

from collections.abc import Iterator

import torch
from transformers import PreTrainedModel

from jobs.bench.comparison import Comparison, Subject, at_most, compared, unit_on
from jobs.bench.scale import Scale
from jobs.bench.timing import Contender, interleaved, timed
from pipeline.demo.train import BATCH_SIZE, CONTEXT_TOKENS, MODEL_BUILDERS, VOCAB_SIZE
from pipeline.integrations import Probe
from pipeline.integrations.trainer import MAX_TIME_SHARE

SAVE_STEPS, ROUNDS, PROBED = 500, 5, 16
"""Default of `save_steps` in transformers' TrainingArguments; number of rounds; number of contexts of the probe."""


def rows(scale: Scale, device: str) -> Iterator[Comparison]:
    """Compare one reading of the demo's decoder with SAVE_STEPS of its training steps.

    A small model is the worst case: with its size, the cost of a step grows faster than that of a reading, since the
    number of points that are read is fixed.
    """
    model = MODEL_BUILDERS["demo-decoder"]()
    torch.nn.Module.to(model, device)
    probe = Probe(torch.randint(VOCAB_SIZE, (PROBED, CONTEXT_TOKENS)))
    work = {"reading": timed(lambda: probe.read(model), device), "steps": _steps(model, device)}
    took = interleaved(work, ROUNDS)
    steps = [step.times(SAVE_STEPS) for step in took["steps"]]
    subject = Subject("training", f"reading of every layer every {SAVE_STEPS} steps", PROBED * CONTEXT_TOKENS)
    yield compared(subject, took["reading"], f"{SAVE_STEPS} steps", steps, at_most(MAX_TIME_SHARE), unit_on(device))


def _steps(model: PreTrainedModel, device: str) -> Contender:
    """Return a contender that runs one training step."""
    optimizer = torch.optim.AdamW(model.parameters())
    ids = torch.randint(VOCAB_SIZE, (BATCH_SIZE, CONTEXT_TOKENS), device=device)

    def step() -> None:
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    step()  # warm-up: creates the optimizer state
    return timed(step, device)
