"""`pytest -m gpu` needs torch and transformers, and none of the libraries around them."""

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
sys.modules.update(dict.fromkeys(sys.argv[1:]))  # to import any of them fails, as if it were not installed
import pytest
plugins = ["-p", "no:xdist", "-p", "no:cacheprovider"]
sys.exit(pytest.main(["-m", "gpu", "--collect-only", *plugins]))
"""


def test_tests_for_gpus_are_collected_without_ray_faiss_and_readers_of_the_lake():
    told = subprocess.run([sys.executable, "-c", PROGRAM, *ABSENT], cwd=ROOT, capture_output=True, text=True)
    assert told.returncode == 0, told.stdout[-3000:] + told.stderr[-3000:]
    files = {line.partition("::")[0] for line in told.stdout.splitlines() if line.startswith("tests/")}
    assert files == {"tests/gpu/test_gpu.py", "tests/gpu/test_split.py"}
