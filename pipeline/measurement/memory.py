"""Memory: free bytes of host and GPU, the number of GPUs that weights need, and reading of files ahead of use."""

import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline.recipe import FLOAT32_MAX_PARAMS

CGROUP = Path("/sys/fs/cgroup")
FIRST_GPU_WEIGHTS_SHARE, OTHER_GPU_WEIGHTS_SHARE = 0.6, 0.9
"""Share of a GPU's memory that weights may take. It is smaller on the first GPU, which also computes the metrics. The
rest of the memory holds the activations of one batch."""
READ_AHEAD_SHARE = 0.5
"""Share of the free host memory that the files of one checkpoint may take to be read ahead; larger ones are not."""
CHUNK = 2**24


def weight_budgets(free: Sequence[int]) -> list[int]:
    """Return the bytes that weights may take on each GPU of a task, given the free bytes of each."""
    shares = (FIRST_GPU_WEIGHTS_SHARE, *[OTHER_GPU_WEIGHTS_SHARE] * (len(free) - 1))
    return [int(share * size) for share, size in zip(shares, free, strict=True)]


def count_gpus_for_weights(n_params: int | None, dtype: str, gpu_bytes: int | None) -> int:
    """Return the smallest number of GPUs that hold the weights in the recipe's dtype; 1 if either size is unknown."""
    if n_params is None or gpu_bytes is None:
        return 1
    wide = dtype == "float32" or (dtype == "auto" and n_params <= FLOAT32_MAX_PARAMS)
    beyond = n_params * (4 if wide else 2) - FIRST_GPU_WEIGHTS_SHARE * gpu_bytes
    return 1 + max(math.ceil(beyond / (OTHER_GPU_WEIGHTS_SHARE * gpu_bytes)), 0)


def free_bytes(device: str) -> int:
    """Return the bytes that this process can still allocate on the GPU, or on the host."""
    if device == "cpu":
        return min(_free_on_machine(), _free_in_container())
    import torch  # not needed by the driver, which only plans

    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + unused


def read_ahead(paths: Sequence[Path]) -> None:
    """Read files into the page cache, if free memory allows, so that a later load does not wait for the disk.

    The kernel drops these pages when memory is needed. The whole files are read, because `posix_fadvise` would load
    only a part of each.
    """
    if sum(path.stat().st_size for path in paths) > READ_AHEAD_SHARE * free_bytes("cpu"):
        return
    chunk = bytearray(CHUNK)
    for path in paths:
        with path.open("rb", buffering=0) as file:
            while file.readinto(chunk):
                pass


def _free_on_machine() -> int:
    """Return the available bytes of host memory, free or reclaimable; if there is no /proc/meminfo, the total bytes."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except FileNotFoundError:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))


def _free_in_container() -> int:
    """Return the bytes left under the container's memory limit (cgroup v2), or sys.maxsize without a limit.

    Inactive page cache counts as free.
    """
    try:
        limit, used = ((CGROUP / name).read_text().strip() for name in ("memory.max", "memory.current"))
        stat = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
    except FileNotFoundError:
        return sys.maxsize
    return sys.maxsize if limit == "max" else int(limit) - int(used) + int(stat["inactive_file"])
