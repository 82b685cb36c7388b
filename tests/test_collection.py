"""`pytest -m gpu` needs only torch and transformers; tests of other libraries are skipped if these are absent."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ABSENT = [
    "ray",
    "faiss",
    "duckdb",
    "polars",
    "pandas",
    "pyarrow",
    "obstore",
    "moto",
    "sklearn",
    "skdim",
    "altair",
    "flask",
]
PROGRAM = """
import sys
absent, given = sys.argv[1].split(","), sys.argv[2:]
sys.modules.update(dict.fromkeys(absent))  # importing any of them fails, as if it were not installed
import pytest
import torch
torch.cuda.is_available = lambda: True
sys.exit(pytest.main(["-m", "gpu", "-p", "no:xdist", "-p", "no:cacheprovider", *given]))
"""


def run_gpu_tests(*given: str) -> str:
    """Return the output of `pytest -m gpu` with a GPU simulated and every library of ABSENT missing."""
    program = [sys.executable, "-c", PROGRAM, ",".join(ABSENT), *given]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_tests_for_gpus_are_collected_without_ray_faiss_and_readers_of_the_lake():
    lines = run_gpu_tests("--collect-only").splitlines()
    files = {line.partition("::")[0] for line in lines if line.startswith("tests/")}
    assert files == {"tests/gpu/test_gpu.py", "tests/gpu/test_ray_gpu.py", "tests/gpu/test_split.py"}


def test_tests_of_ray_on_gpus_are_skipped_without_ray():
    lines = run_gpu_tests("-rs", "tests/gpu/test_ray_gpu.py").splitlines()
    reasons = [line.partition(": ")[2] for line in lines if line.startswith("SKIPPED")]
    assert reasons
    assert all(reason.startswith("could not import 'ray'") for reason in reasons), reasons
