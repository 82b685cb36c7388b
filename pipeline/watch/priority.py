"""Leaving the machine to training: niceness, and a share of the GPU's memory."""

import os

import torch

from pipeline.errors import UsageError


def lower_priority(niceness: int, gpu_share: float | None) -> None:
    """Lower this process's priority, for good, and bound what it may take of the GPU's memory.

    Raises:
        UsageError: a share of a GPU where there is none.
    """
    os.nice(niceness)
    if gpu_share is None:
        return
    if not torch.cuda.is_available():
        raise UsageError(f"--gpu-share {gpu_share}", "no CUDA device", "Leave it out, or watch where there is a GPU")
    torch.cuda.set_per_process_memory_fraction(gpu_share)
