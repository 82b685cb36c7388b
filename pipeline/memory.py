"""Bytes that are free, on the host and on the GPU."""

import os
import sys
from pathlib import Path

import torch

CGROUP = Path("/sys/fs/cgroup")


def free_bytes(device: str) -> int:
    """Of the GPU's memory, or of the host's: what this process could still take."""
    if device == "cpu":
        return min(_of_machine(), _of_container())
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + unused


def _of_machine() -> int:
    """Free, or free at once because it only caches files; all of it where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except FileNotFoundError:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))


def _of_container() -> int:
    """What is left of the container's limit (cgroup v2), cached files not counted; no bound without one."""
    try:
        limit, used = ((CGROUP / name).read_text().strip() for name in ("memory.max", "memory.current"))
        stat = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
    except FileNotFoundError:
        return sys.maxsize
    return sys.maxsize if limit == "max" else int(limit) - int(used) + int(stat["inactive_file"])
