"""Description of the machine and software of a measurement."""

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from jobs.bench import peers

PACKAGES = ("torch", "numpy", "faiss-cpu", "faiss-gpu", "transformers", "ray", "scikit-learn", "scikit-dimension")


def machine(device: str) -> dict[str, Any]:
    """Describe this machine and process now; memory in GiB, load average over the last minute."""
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpu": torch.cuda.get_device_name() if device == "cuda" else None,
        "cuda": torch.version.cuda if device == "cuda" else None,
        "load_average": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "versions": {name: found for name in PACKAGES if (found := _version(name))} | peers.versions(),
    }


def format_machine(about: dict[str, Any]) -> str:
    """Format the result of `machine` as one line of text."""
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    text = f"{about['processor']}, {about['cores']} cores ({about['threads']} threads), {about['memory_gib']} GiB"
    text += f", {about['gpu']} (CUDA {about['cuda']})" if about["gpu"] else ""
    return f"{about['date']}; {text}; load {about['load_average']}; Python {about['python']}, {versions}"


def _processor() -> str:
    """Return the processor's model name where /proc/cpuinfo has it, else the architecture."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
