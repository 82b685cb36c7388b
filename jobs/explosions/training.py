"""Short training run of a small decoder: loss and gradient norm at every step, geometry at every eighth."""

import math
import pydoc_data.topics
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from jobs.explosions.disturbances import INDUCED, STEPS, Disturbance, disturbance
from pipeline.analysis.explosions import is_spike
from pipeline.integrations.probe import Probe

WIDTH, LAYERS, HEADS, CONTEXT, BATCH = 48, 3, 4, 32, 12
RATE, WARM_UP = 3e-3, 40
EVERY = 8
"""Steps between readings of the geometry."""
FIRST_READING = 32
PROBED_SHARE, PROBE_CONTEXTS, POINTS = 0.2, 32, 512


class Run(NamedTuple):
    kind: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.seed}"

    @property
    def is_induced(self) -> bool:
        return self.kind in INDUCED

    @property
    def start(self) -> int:
        """Step at which the disturbance starts."""
        return disturbance(self.kind, self.seed).start


def trace(run: Run) -> Iterator[dict[str, Any]]:
    """Yield one row per step, measured on the weights before that step; the event is the last row.

    Columns of every row:

    - `step`
    - `loss`: loss on the undisturbed batch, even if a disturbed one is trained on; None if it is not finite.
    - `gradient`: norm of the gradient; None if it is not finite.

    Columns that the probe adds at every eighth step from FIRST_READING on, if the loss is finite:

    - `probe_loss`
    - `sign_diversity`: mean over all linear maps in the blocks.
    - `id_twonn_L`, `id_mle_L`, `anisotropy_L`: metrics of each layer L.
    """
    plan, batches = disturbance(run.kind, run.seed), _batches(run.seed)
    model, probe = _model(run.seed), Probe(_probe_contexts(), POINTS, range(1, LAYERS + 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.01, fused=True)
    losses: list[float] = []
    for step in range(STEPS):
        since = step - plan.start
        if since == 0:
            plan.begin(optimizer)
        batch = next(batches)
        losses.append(_backward(model, batch, plan, since))
        row = {"step": step, "loss": _null_if_not_finite(losses[-1]), "gradient": _null_if_not_finite(_norm(model))}
        if step >= FIRST_READING and step % EVERY == 0 and math.isfinite(losses[-1]):
            row |= _reading(model, probe)
        yield row
        if run.is_induced and since > 0 and is_spike(losses):
            return
        for group in optimizer.param_groups:
            group["lr"] = RATE * min((step + 1) / WARM_UP, 1.0) * (plan.rate(since) if since >= 0 else 1.0)
        optimizer.step()
        if since >= 0:
            with torch.no_grad():
                plan.after(optimizer)


def _backward(model: nn.Module, batch: Tensor, plan: Disturbance, since: int) -> float:
    """Compute the gradients of the training batch; return the loss of the undisturbed batch."""
    model.zero_grad()
    used = plan.batch(since, batch) if since >= 0 else batch
    loss = model(input_ids=used, labels=used).loss
    loss.backward()
    if used is batch:
        return loss.item()
    with torch.no_grad():
        return model(input_ids=batch, labels=batch).loss.item()


def _null_if_not_finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _norm(model: nn.Module) -> float:
    return float(get_total_norm([weight.grad for weight in model.parameters() if weight.grad is not None]))


def _reading(model: GPTNeoXForCausalLM, probe: Probe) -> dict[str, Any]:
    with _record_sign_diversity(model) as diversity:
        reading = probe.read(model)
    row = {"probe_loss": reading.loss, "sign_diversity": sum(diversity) / len(diversity)}
    for layer in reading.layers:
        row |= {f"{name}_{layer.layer}": value for name, value in layer._asdict().items() if name != "layer"}
    return row


@contextmanager
def _record_sign_diversity(model: nn.Module) -> Iterator[list[float]]:
    """Record the sign diversity of each linear map in a block, at each forward pass (arXiv 2510.04202).

    It is 1 - |mean over the inputs x of sign <x, v>|, where v is the leading right singular vector of the map. It is 0
    if all inputs lie on one side of the hyperplane through 0 that is orthogonal to v.
    """
    values: list[float] = []

    def record(module: nn.Linear, args: tuple[Tensor, ...]) -> None:
        leading = torch.linalg.svd(module.weight, full_matrices=False).Vh[0]
        values.append(1 - abs(float((args[0] @ leading).sign().mean())))

    maps = [m for name, m in model.named_modules() if isinstance(m, nn.Linear) and ".layers." in name]
    hooks = [linear.register_forward_pre_hook(record) for linear in maps]
    try:
        yield values
    finally:
        for hook in hooks:
            hook.remove()


def _model(seed: int) -> GPTNeoXForCausalLM:
    torch.manual_seed(seed)  # transformers draws its weights from the global generator
    return GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=256,
            hidden_size=WIDTH,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            intermediate_size=4 * WIDTH,
            max_position_embeddings=CONTEXT,
            use_cache=False,
        )
    )


@cache
def _text() -> Tensor:
    """Return the documentation text that ships with CPython, as a tensor of its bytes."""
    text = "\n".join(pydoc_data.topics.topics[name] for name in sorted(pydoc_data.topics.topics))
    return torch.tensor(list(text.encode()))


def _batches(seed: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    trained = _text()[: int(len(_text()) * (1 - PROBED_SHARE))]
    while True:
        starts = torch.randint(len(trained) - CONTEXT, (BATCH,), generator=generator)
        yield torch.stack([trained[start : start + CONTEXT] for start in starts.tolist()])


def _probe_contexts() -> Tensor:
    """Return evenly spaced contexts of the held-out end of the text."""
    held_out = _text()[int(len(_text()) * (1 - PROBED_SHARE)) :]
    starts = torch.linspace(0, len(held_out) - CONTEXT, PROBE_CONTEXTS).long()
    return torch.stack([held_out[start : start + CONTEXT] for start in starts.tolist()])
