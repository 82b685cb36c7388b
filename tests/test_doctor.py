"""Each check of `shapelake doctor`, passing and failing, through `run_checks`."""

import shutil
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from pipeline import doctor
from pipeline.doctor import CheckResult, run_checks
from pipeline.lake import Lake
from pipeline.lake.local_store import LocalStore

TOKEN = "secret-token-of-a-test"
DESCRIBE = "pipeline.geometry.describe"


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch, tmp_path):
    """Empty home, no relevant environment variables, and a stub in place of the TwoNN estimate."""
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "HF_TOKEN", "HF_TOKEN_PATH", "HF_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(DESCRIBE, lambda points: {"id_twonn": 4.7})


def check(name: str, lake: object = None) -> CheckResult:
    return next(result for result in run_checks(str(lake) if lake else None) if result.name == name)


def write_token(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(TOKEN)


def install(monkeypatch, *packages: str) -> None:
    """Make only these packages appear to be installed."""

    def version(name: str) -> str:
        if name not in packages:
            raise PackageNotFoundError(name)
        return "1.15.1"

    monkeypatch.setattr(doctor, "version", version)


def add_gpu(monkeypatch, cuda: str, faiss_gpus: int) -> None:
    """Simulate a GPU for torch and `faiss_gpus` GPUs for faiss-gpu."""
    install(monkeypatch, "faiss-gpu")
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "H200")
    monkeypatch.setitem(sys.modules, "faiss", SimpleNamespace(get_num_gpus=lambda: faiss_gpus))


def test_ray_without_a_mode_is_a_note():
    assert check("ray").state == "note"


def test_ray_with_a_token_is_fine_and_the_token_is_not_shown(monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    result = check("ray")
    assert result.state == "fine"
    assert TOKEN not in str(result)


def test_ray_that_wants_a_token_which_is_nowhere_is_broken(monkeypatch, tmp_path):
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    assert check("ray").state == "broken"
    write_token(tmp_path / ".ray" / "auth_token")
    assert check("ray").state == "fine"


def test_ray_that_is_open_is_a_note(monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    result = check("ray")
    assert (result.state, "RAY_AUTH_MODE disabled" in result.found) == ("note", True)
    assert "RAY_AUTH_MODE=token" in result.do


def test_a_token_file_that_only_heads_would_use_is_a_note(tmp_path):
    file = tmp_path / ".ray" / "auth_token"
    write_token(file)
    result = check("ray")
    assert (result.state, str(file) in result.found) == ("note", True)
    assert "RAY_AUTH_MODE=token" in result.do


def test_the_hub_s_token_is_found_in_the_environment_and_in_its_file(monkeypatch, tmp_path):
    assert "token not set" in check("hub").found
    file = tmp_path / ".cache" / "huggingface" / "token"
    write_token(file)
    assert f"token in {file}" in check("hub").found
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert "token set" in check("hub").found
    assert TOKEN not in str(check("hub"))


def test_being_offline_is_a_note(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    assert check("hub").state == "fine"
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert check("hub").state == "note"


def test_torch_is_fine_with_a_gpu_and_broken_if_built_for_one_that_is_not_found(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    result = check("torch")
    assert (result.state, "CUDA 13.0" in result.found) == ("broken", True)
    add_gpu(monkeypatch, "13.0", 1)
    result = check("torch")
    assert (result.state, "H200" in result.found) == ("fine", True)


def test_two_builds_of_faiss_are_broken(monkeypatch):
    install(monkeypatch, "faiss-cpu", "faiss-gpu")
    result = check("faiss")
    assert result.state == "broken"
    assert "pip uninstall faiss-cpu faiss-gpu" in result.do


def test_no_faiss_is_a_note(monkeypatch):
    install(monkeypatch)
    assert check("faiss").state == "note"


@pytest.mark.parametrize(
    ("cuda", "faiss_gpus", "state", "fact"),
    [("12.9", 1, "fine", "1 GPUs"), ("13.0", 1, "note", "CUDA 12, but torch for 13"), ("13.0", 0, "note", "no GPU")],
)
def test_faiss_for_gpus_beside_torch(monkeypatch, cuda, faiss_gpus, state, fact):
    add_gpu(monkeypatch, cuda, faiss_gpus)
    monkeypatch.setattr(doctor, "requires", lambda name: ["numpy", "nvidia-cuda-runtime-cu12<13,>=12.6"])
    result = check("faiss")
    assert (result.state, fact in result.found) == (state, True), result


@pytest.mark.parametrize(
    ("requirements", "cuda"),
    [
        (["numpy", "nvidia-cuda-runtime-cu12>=12.6,<13"], "12"),
        (["nvidia-cuda-runtime<14,>=13.2"], "13"),
        (["numpy"], None),
        (None, None),
    ],
)
def test_the_cuda_of_a_package_is_that_of_the_runtime_it_asks_for(monkeypatch, requirements, cuda):
    monkeypatch.setattr(doctor, "requires", lambda name: requirements)
    states = {}
    for version in ("12", "13"):
        add_gpu(monkeypatch, f"{version}.6", 1)
        states[version] = check("faiss").state
    assert states == {version: "fine" if version == cuda else "note" for version in states}


def test_faiss_without_its_libraries_is_broken(monkeypatch):
    install(monkeypatch, "faiss-gpu")
    monkeypatch.setitem(sys.modules, "faiss", None)  # importing it fails
    assert check("faiss").state == "broken"


def test_a_known_manifold_is_read_rightly_and_a_wrong_reading_is_broken(monkeypatch):
    for wrong in (9.0, None):
        monkeypatch.setattr(DESCRIBE, lambda points, wrong=wrong: {"id_twonn": wrong})
        assert check("TwoNN").state == "broken"
    monkeypatch.undo()
    assert check("TwoNN").state == "fine"


def test_little_disk_is_a_note(monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1e9))
    assert check("scratch").state == "note"
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1e12))
    assert check("scratch").state == "fine"


def test_a_store_that_lets_a_file_be_created_twice_is_a_note(monkeypatch, tmp_path):
    Lake(tmp_path / "lake").identity.begin()
    assert check("lake", tmp_path / "lake").state == "fine"
    create = LocalStore.create_if_absent
    monkeypatch.setattr(LocalStore, "create_if_absent", lambda self, key, data: create(self, key, data) or True)
    result = check("lake", tmp_path / "lake")
    assert (result.state, "twice" in result.found) == ("note", True)


def test_a_lake_that_cannot_be_written_is_broken(tmp_path):
    (tmp_path / "file").touch()
    result = check("lake", tmp_path / "file" / "lake")
    assert result.state == "broken"
    assert result.do
