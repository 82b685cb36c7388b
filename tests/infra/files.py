"""Files of infra/ as text by name, and the versions that they must agree with."""

import re
import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
Files = Mapping[str, str]

LAUNCHER = ("cluster.aws.yaml", "cluster.gcp.yaml")
KUBERAY = ("raycluster.yaml", "rayjob.yaml", "raycronjob.yaml")
SHELL = ("slurm.sbatch",)
DOCKER = ("Dockerfile", "Dockerfile.dockerignore")
PINS = ("constraints.txt", "constraints-gpu.txt")


def shipped() -> dict[str, str]:
    """Return the text of every file of infra/ by name."""
    return {path.name: path.read_text() for path in sorted((ROOT / "infra").iterdir()) if path.is_file()}


def parsed(files: Files, name: str) -> Any:
    """Parse the YAML of a file; the result is cached and must not be modified."""
    return loaded(files[name])


@cache
def loaded(text: str) -> Any:
    return yaml.load(text, yaml.CSafeLoader)


def cluster_spec(files: Files, name: str) -> Any:
    """Return the cluster spec of a manifest of any of the three kinds."""
    spec = parsed(files, name)["spec"]
    return spec if name == "raycluster.yaml" else _job_spec(spec)["rayClusterSpec"]


def job_spec(files: Files, name: str) -> Any:
    return _job_spec(parsed(files, name)["spec"])


def _job_spec(spec: Any) -> Any:
    return spec.get("jobTemplate", spec)


def pins(files: Files, name: str = "constraints.txt") -> dict[str, str]:
    """Return the pinned version of each package in a constraints file."""
    return dict(re.findall(r"^([A-Za-z0-9_.-]+)==(\S+)$", files[name], re.MULTILINE))


def tag(files: Files, target: str) -> str:
    """Return the image tag: versions of this project, Ray and Python, and the build target."""
    project = _project()
    python = project["tool"]["ruff"]["target-version"]
    return f"{project['project']['version']}-ray{pins(files)['ray']}-{python}-{target}"


@cache
def _project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())
