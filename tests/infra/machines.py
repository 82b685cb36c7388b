"""Checks of the images and the SLURM script; each check yields its findings as sentences."""

import re
import subprocess
from collections.abc import Iterator
from functools import cache
from itertools import pairwise

from tests.infra.files import PINS, Files, pins, tag


def dockerfile(files: Files) -> Iterator[str]:
    """Check that the images are pinned and unprivileged and contain only code."""
    text = re.sub(r"\\\n", " ", files["Dockerfile"])
    lines = [line.split(None, 1) for line in text.splitlines() if line.strip() and not line.startswith("#")]
    python = tag(files, "cpu").split("-")[2].removeprefix("py")
    copied = {word for key, rest in lines if key == "COPY" for word in rest.split()[:-1]}
    if extra := copied - {"pyproject.toml", "README.md", "LICENSE", "jobs", "pipeline", *(f"infra/{n}" for n in PINS)}:
        yield f"Dockerfile: copies {sorted(extra)}"
    if any(key == "ADD" for key, _ in lines):
        yield "Dockerfile: ADD downloads files without a pin"
    base = rf"python:{python[0]}\.{python[1:]}-slim-bookworm(@sha256:[0-9a-f]{{64}})? AS base"
    if lines[0][0] != "FROM" or not re.fullmatch(base, lines[0][1]):
        yield f"Dockerfile: {' '.join(lines[0])} is not an image of Python {python}"
    for key, rest in lines:
        if "pip install" in rest and "-c infra/constraints.txt" not in rest:
            yield f"Dockerfile: {key} {rest} without the pins"
    for target in ("cpu", "gpu"):
        yield from (f"Dockerfile {target}: {finding}" for finding in _stage(target, lines))
        if f"--target {target} -t registry.example.com/shapelake:{tag(files, target)} ." not in files["Dockerfile"]:
            yield f"Dockerfile: the build command of {target} lacks the tag {tag(files, target)}"
    if files["Dockerfile.dockerignore"].splitlines()[1] != "*":
        yield "Dockerfile.dockerignore: the first rule must be *, so that only named files enter an image"


def gpu_pins(files: Files) -> Iterator[str]:
    """Check that GPU images pin one FAISS, at the version that the tests passed with."""
    cpu, gpu = pins(files), pins(files, "constraints-gpu.txt")
    if gpu.get("faiss-gpu") != cpu["faiss-cpu"]:
        yield f"constraints-gpu.txt: faiss-gpu {gpu.get('faiss-gpu')}, the tests passed with {cpu['faiss-cpu']}"
    if both := cpu.keys() & gpu.keys():
        yield f"constraints-gpu.txt: pinned twice: {sorted(both)}"
    if unpinned := [name for name in ("aiohttp", "boto3", "obstore", "ray", "torch") if name not in cpu]:
        yield f"constraints.txt: not pinned: {unpinned}"


def slurm(files: Files) -> Iterator[str]:
    """Check the syntax, and that SLURM signals the script early enough before the limit for a drain."""
    text = files["slurm.sbatch"]
    if error := _syntax_error(text):
        yield f"slurm.sbatch: {error}"
    given = dict(re.findall(r"^#SBATCH --([a-z-]+)(?:=(\S+))?$", text, re.MULTILINE))
    notice = re.fullmatch(r"B:USR1@(\d+)", given.get("signal", ""))
    drain = re.search(r"^drain_s=(\d+)$", text, re.MULTILINE)
    if not notice or not drain or int(notice[1]) < int(drain[1]) + 90:  # SLURM may signal a minute late
        yield f"slurm.sbatch: --signal {given.get('signal')} leaves no time for the drain"
    if (
        not {"requeue", "exclusive", "nodes", "gpus-per-node", "time"} <= given.keys()
        or given["ntasks-per-node"] != "1"
    ):
        yield f"slurm.sbatch: directives {sorted(given)}"
    if not re.search(r"^set -euo pipefail$", text, re.MULTILINE):
        yield "slurm.sbatch: does not stop at an error (set -euo pipefail)"
    if "export RAY_AUTH_MODE=token RAY_AUTH_TOKEN" not in text:
        yield "slurm.sbatch: Ray's authentication is not on"
    if re.search(r"^[^#]*\bray stop\b", text, re.MULTILINE):
        yield "slurm.sbatch: ray stop ends every Ray of this user on the node"
    yield from (f"slurm.sbatch: unquoted {word}" for word in _unquoted(text))


@cache
def _syntax_error(text: str) -> str:
    return subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True, check=False).stderr


def _stage(target: str, lines: list[list[str]]) -> Iterator[str]:
    """Yield findings in the build stage `target`, from its FROM to the next."""
    starts = [at for at, (key, _) in enumerate(lines) if key == "FROM"] + [len(lines)]
    bounds = [(a, b) for a, b in pairwise(starts) if lines[a][1].endswith(f" AS {target}")]
    if not bounds:
        yield "no such target"
        return
    stage = lines[slice(*bounds[0])]
    if stage[-1] != ["USER", "1000:1000"]:
        yield "the stage does not end as an unprivileged user"
    installs = [rest for key, rest in lines if key == "RUN" and f".[{target},cloud,cluster]" in rest]
    if len(installs) != 1 or (target == "gpu") != ("constraints-gpu.txt" in installs[0]):
        yield f"installs {installs}"
    whole = " ".join(rest for _, rest in lines)
    for required in ("RAY_AUTH_MODE=token", "HOME=/home/shapelake", "rsync", "wget"):
        if required not in whole:
            yield f"without {required}"


def _unquoted(text: str) -> Iterator[str]:
    """Yield unquoted variables outside arithmetic, tests, assignments and defaults, where bash splits words."""
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        bare = re.sub(
            r"\$\{\w+:\?[^}]*\}|\$\(\(.*?\)\)|\(\(.*?\)\)|\[\[.*?\]\]|\"[^\"]*\"|'[^']*'|^\s*(export )?(\w+=\S* ?)+$",
            "",
            line,
        )
        yield from re.findall(r"\$\w+|\$\{[^}]*\}", bare)
