"""Scan of the classes of transformers: which load, which are refused, and which would be measured wrongly."""

import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from torch import Tensor

from pipeline.errors import CheckpointError
from pipeline.model import Model, load_model
from tests.support import tiny_classes

MAX_PARAMS = 30_000_000
SECONDS_PER_CLASS = 240


class Outcome(NamedTuple):
    """Outcome of one class: fine, refused, wrong or unbuilt."""

    name: str
    outcome: str
    why: str
    """Kinds of a fine class; otherwise the reason."""


def scan_class(name: str) -> Outcome:
    """Build the class with a tiny random config, load it, and compare what is captured with what the model does."""
    with tempfile.TemporaryDirectory() as root, _time_limit():
        folder = Path(root) / "checkpoint"
        try:
            _save(name, folder)
        except Exception as error:
            return Outcome(name, "unbuilt", _first_line(error))
        try:
            model = load_model(folder, "float32", "cpu")
            wrong = _difference(model)
        except CheckpointError as error:
            return Outcome(name, "refused", error.found.replace(str(folder), "FOLDER"))
        except Exception as error:
            return Outcome(name, "wrong", f"{type(error).__name__}: {_first_line(error)}")
        return Outcome(name, "wrong" if wrong else "fine", wrong or ", ".join(model.stacks))


def _save(name: str, folder: Path) -> None:
    cls = getattr(transformers, name)
    config = tiny_classes.tiny_config(cls)
    with torch.device("meta"):
        n_params = sum(parameter.numel() for parameter in cls(config).parameters())
    if n_params > MAX_PARAMS:
        raise ValueError(f"its smallest config here has {n_params:,} parameters")
    tiny_classes.save(name, folder)


def _difference(model: Model) -> str:
    """Return how the captured states differ from the model, called as its users call it; empty if they do not."""
    kind, stack = next(iter(model.stacks.items()))
    ids = torch.arange(20, 28)[None]
    states: list[Tensor] = []
    stack.forward_and_capture(ids, lambda _, state: states.append(state.clone()))
    if kind.startswith("encdec"):
        return ""
    has_head = model.module.get_output_embeddings() is not None
    module: Any = model.module if has_head else model.module.base_model  # other heads need more than a text
    with torch.inference_mode():
        own, other = (module(input_ids=i, output_hidden_states=True) for i in (ids, _last_changed(ids)))
    hidden = own.get("hidden_states") or ()
    missing = [i for i in range(1, stack.n_layers) if hidden and not any(_equal(states[i], h) for h in hidden)]
    if missing:
        return f"states of layers {missing} are not among its own hidden states"
    first = [_equal(out[0][:, 0], back[0][:, 0]) for out, back in [(own.to_tuple(), other.to_tuple())]]
    return "" if first[0] == (kind == "decoder") else f"measured as {kind}, against the direction of its attention"


def _last_changed(ids: Tensor) -> Tensor:
    return torch.cat([ids[:, :-1], ids[:, -1:] + 9], dim=1)


def _equal(a: Tensor, b: Any) -> bool:
    return isinstance(b, Tensor) and a.shape == b.shape and bool(torch.allclose(a, b, rtol=1e-4, atol=1e-5))


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:160]


@contextmanager
def _time_limit() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TimeoutError(f"slower than {SECONDS_PER_CLASS} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS_PER_CLASS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
