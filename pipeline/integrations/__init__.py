"""In other people's training loops: the shape of a live model on a fixed batch, and a callback for the Trainer."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pipeline.integrations.probe import LayerReading, Probe, Reading

if TYPE_CHECKING:
    from pipeline.integrations.trainer import TrainerCallback

__all__ = ["LayerReading", "Probe", "Reading", "TrainerCallback"]


def __getattr__(name: str) -> Any:
    """The Trainer's own modules are slow to import and need accelerate; a plain loop does without."""
    if name != "TrainerCallback":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return import_module("pipeline.integrations.trainer").TrainerCallback
