"""What a reading of the live model adds to training, at the Trainer's default of one save in 500 steps."""

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
"""`save_steps` of transformers' TrainingArguments; contexts of the probe."""


def rows(scale: Scale, device: str) -> Iterator[Comparison]:
    """On the demo's decoder: a larger model's steps grow faster than its readings, whose clouds stay as they are."""
    model = MODEL_BUILDERS["demo-decoder"]()
    torch.nn.Module.to(model, device)
    probe = Probe(torch.randint(VOCAB_SIZE, (PROBED, CONTEXT_TOKENS)))
    work = {"reading": timed(lambda: probe.read(model), device), "steps": _steps(model, device)}
    took = interleaved(work, ROUNDS)
    steps = [one.times(SAVE_STEPS) for one in took["steps"]]
    subject = Subject("training", f"a reading of every layer each {SAVE_STEPS} steps", PROBED * CONTEXT_TOKENS)
    yield compared(subject, took["reading"], f"{SAVE_STEPS} steps", steps, at_most(MAX_TIME_SHARE), unit_on(device))


def _steps(model: PreTrainedModel, device: str) -> Contender:
    """One step of training."""
    optimizer = torch.optim.AdamW(model.parameters())
    ids = torch.randint(VOCAB_SIZE, (BATCH_SIZE, CONTEXT_TOKENS), device=device)

    def step() -> None:
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    step()  # the first one makes the optimizer's state
    return timed(step, device)
