"""Integrations for training loops: a probe that measures a live model on a fixed batch, and a Trainer callback."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pipeline.integrations.probe import LayerReading, Probe, Reading

if TYPE_CHECKING:
    from pipeline.integrations.trainer import TrainerCallback

__all__ = ["LayerReading", "Probe", "Reading", "TrainerCallback"]


def __getattr__(name: str) -> Any:
    """Import TrainerCallback on first use, because modules of the Trainer are slow to import and need accelerate."""
    if name != "TrainerCallback":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return import_module("pipeline.integrations.trainer").TrainerCallback
