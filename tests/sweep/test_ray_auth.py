"""A local run protects its Ray with its own token, unless the user has set an authentication mode."""

import os
import subprocess
import sys
from pathlib import Path

from pipeline.lake import Lake
from pipeline.sweep.ray_local import enable_local_ray_auth
from tests.support import stub_checkpoints as stub

RUN = """
import os, sys
from pathlib import Path
from pipeline.lake import Lake
from pipeline.sweep.plan import make_plan
from pipeline.sweep.run import run
from tests.support import stub_checkpoints as stub

def work(task):
    assert os.environ["RAY_AUTH_MODE"] == "token" and len(os.environ["RAY_AUTH_TOKEN"]) == 64
    return stub.work(task)

assert run(make_plan(stub.sweep(Path(sys.argv[1])), Lake(sys.argv[2])), Lake(sys.argv[2]), "ray", work).exit_code == 0
from ray._private.authentication.authentication_utils import is_token_auth_enabled
assert is_token_auth_enabled()
"""


def test_it_makes_a_secret(monkeypatch):
    monkeypatch.setattr(os, "environ", {})
    enable_local_ray_auth()
    assert os.environ["RAY_AUTH_MODE"] == "token"
    assert len(bytes.fromhex(os.environ["RAY_AUTH_TOKEN"])) == 32
    first = os.environ["RAY_AUTH_TOKEN"]
    os.environ.clear()
    enable_local_ray_auth()
    assert os.environ["RAY_AUTH_TOKEN"] != first


def test_what_the_user_has_set_stands(monkeypatch):
    monkeypatch.setattr(os, "environ", {"RAY_AUTH_MODE": "disabled"})
    enable_local_ray_auth()
    assert os.environ == {"RAY_AUTH_MODE": "disabled"}


def test_a_run_of_its_own_ray_is_locked_and_leaves_no_token_behind(tmp_path: Path):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    environment["HOME"] = str(tmp_path)
    root = stub.history(tmp_path / "runs", [0])
    script = tmp_path / "locked.py"
    script.write_text(RUN)
    words = [sys.executable, str(script), str(root), str(tmp_path / "lake")]
    ran = subprocess.run(
        words, env=environment | {"PYTHONPATH": os.getcwd()}, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert len(Lake(tmp_path / "lake").committed_cell_ids()) == 1
    assert not (tmp_path / ".ray").exists()
