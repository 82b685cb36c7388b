"""The class of a failure is decided where its type is known."""

import pytest
import torch

from pipeline import errors
from pipeline.sweep.worker import classify


@pytest.mark.parametrize(
    ("error", "error_class"),
    [
        (errors.CheckpointError("a", "b", "c"), "permanent"),
        (errors.CorpusError("a", "b", "c"), "permanent"),
        (errors.FetchError("a", "b", "c"), "transient"),
        (errors.ChangedError("a", "b", "c"), "changed"),
        (errors.UsageError("a", "b", "c"), "setup"),
        (errors.LakeError("a", "b", "c"), "infra"),
        (torch.OutOfMemoryError("out of memory"), "oom"),
        (MemoryError(), "oom"),
        (ConnectionResetError(), "transient"),
        (TimeoutError(), "transient"),
        (KeyError("x"), "error"),
        (OSError("x"), "error"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_classify(error, error_class):
    assert classify(error) == error_class
