"""Bytes: what is free on the host and on the GPU, how many GPUs the weights of a model take, files read ahead."""

import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline.recipe import FLOAT32_MAX_PARAMS

CGROUP = Path("/sys/fs/cgroup")
FIRST_GPU_WEIGHTS_SHARE, OTHER_GPU_WEIGHTS_SHARE = 0.6, 0.9
"""Share of a GPU's memory that weights may take: of the first, where the metrics are, and of any other; there the rest
is for the states of one batch."""
READ_AHEAD_SHARE = 0.5
"""Share of the free host memory that the files of one checkpoint may take ahead of its turn."""
CHUNK = 2**24


def weight_budgets(free: Sequence[int]) -> list[int]:
    """Bytes that weights may take of each GPU of a task."""
    return [
        int((OTHER_GPU_WEIGHTS_SHARE if number else FIRST_GPU_WEIGHTS_SHARE) * size) for number, size in enumerate(free)
    ]


def count_gpus_for_weights(n_params: int | None, dtype: str, gpu_bytes: int | None) -> int:
    """The fewest GPUs that have room for the weights in the recipe's dtype; 1 where either size is not known."""
    if n_params is None or gpu_bytes is None:
        return 1
    wide = dtype == "float32" or (dtype == "auto" and n_params <= FLOAT32_MAX_PARAMS)
    beyond = n_params * (4 if wide else 2) - FIRST_GPU_WEIGHTS_SHARE * gpu_bytes
    return 1 + max(math.ceil(beyond / (OTHER_GPU_WEIGHTS_SHARE * gpu_bytes)), 0)


def free_bytes(device: str) -> int:
    """Of the GPU's memory, or of the host's: what this process could still take."""
    if device == "cpu":
        return min(_free_on_machine(), _free_in_container())
    import torch  # not for the driver, which only plans

    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + unused


def read_ahead(paths: Sequence[Path]) -> None:
    """Have the system keep the files in its cache, if they fit, so that who loads them soon waits for no disk.

    It takes memory from nobody: the system drops the pages for whoever needs them. Advice to it (`posix_fadvise`) would
    bring no more of each file than its read-ahead window.
    """
    if sum(path.stat().st_size for path in paths) > READ_AHEAD_SHARE * free_bytes("cpu"):
        return
    chunk = bytearray(CHUNK)
    for path in paths:
        with path.open("rb", buffering=0) as file:
            while file.readinto(chunk):
                pass


def _free_on_machine() -> int:
    """Free, or free at once because it only caches files; all of it where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except FileNotFoundError:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))


def _free_in_container() -> int:
    """What is left of the container's limit (cgroup v2), cached files not counted; no bound without one."""
    try:
        limit, used = ((CGROUP / name).read_text().strip() for name in ("memory.max", "memory.current"))
        stat = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
    except FileNotFoundError:
        return sys.maxsize
    return sys.maxsize if limit == "max" else int(limit) - int(used) + int(stat["inactive_file"])
