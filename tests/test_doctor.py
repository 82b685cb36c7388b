"""Each thing the doctor looks at, sound and broken."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline import doctor
from pipeline.lake.local_store import LocalStore

TOKEN = "nobody-may-read-this"


@pytest.fixture(autouse=True)
def _nobody(monkeypatch, tmp_path):
    """A home and an environment in which nothing is set."""
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "HF_TOKEN", "HF_TOKEN_PATH", "HF_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def written(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(TOKEN)
    return path


def test_ray_without_a_mode_is_a_note():
    assert doctor._ray().state == "note"


def test_ray_with_a_token_is_fine_and_the_token_is_not_shown(monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    check = doctor._ray()
    assert check.state == "fine"
    assert TOKEN not in str(check)


def test_ray_that_wants_a_token_which_is_nowhere_is_broken(monkeypatch, tmp_path):
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    assert doctor._ray().state == "broken"
    written(tmp_path / ".ray" / "auth_token")
    assert doctor._ray().state == "fine"


def test_ray_that_is_open_is_a_note(monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert "runs code" in doctor._ray().found


def test_a_token_file_that_only_heads_would_use_is_a_note(tmp_path):
    written(tmp_path / ".ray" / "auth_token")
    assert "sends none" in doctor._ray().found


def test_the_hub_s_token_is_found_in_the_environment_and_in_its_file(monkeypatch, tmp_path):
    assert doctor.NO_TOKEN_MESSAGE in doctor._hub().found
    written(tmp_path / ".cache" / "huggingface" / "token")
    assert "token in" in doctor._hub().found
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert "token set" in doctor._hub().found
    assert TOKEN not in str(doctor._hub())


def test_being_offline_is_a_note(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    assert doctor._hub().state == "fine"
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert doctor._hub().state == "note"


def installed(monkeypatch, *names: str) -> None:
    monkeypatch.setattr(doctor, "_version", lambda name: "1.15.1" if name in names else None)


def test_two_builds_of_faiss_are_broken(monkeypatch):
    installed(monkeypatch, "faiss-cpu", "faiss-gpu")
    assert (doctor._faiss().state, doctor._faiss().do) == ("broken", "Uninstall both, then install one")


def test_no_faiss_is_a_note(monkeypatch):
    installed(monkeypatch)
    assert doctor._faiss().state == "note"


@pytest.mark.parametrize(
    ("cuda", "gpus", "state", "said"),
    [("12.9", 1, "fine", "1 GPUs"), ("13.0", 1, "note", "CUDA 12, torch for 13"), ("13.0", 0, "note", "sees no GPU")],
)
def test_faiss_for_gpus_beside_torch(monkeypatch, cuda, gpus, state, said):
    """A card, and packages for it, that this machine need not have."""
    import torch

    installed(monkeypatch, "faiss-gpu")
    monkeypatch.setattr(doctor, "requires", lambda name: ["numpy", "nvidia-cuda-runtime-cu12<13,>=12.6"])
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setitem(sys.modules, "faiss", SimpleNamespace(get_num_gpus=lambda: gpus))
    check = doctor._faiss()
    assert (check.state, said in check.found) == (state, True), check


def test_faiss_without_its_libraries_is_broken(monkeypatch):
    installed(monkeypatch, "faiss-gpu")
    monkeypatch.setitem(sys.modules, "faiss", None)  # an import of it fails
    assert doctor._faiss().state == "broken"


@pytest.mark.parametrize(
    ("asked", "cuda"),
    [
        (["numpy", "nvidia-cuda-runtime-cu12>=12.6,<13"], "12"),
        (["nvidia-cuda-runtime<14,>=13.2"], "13"),
        (["numpy"], None),
        (None, None),
    ],
)
def test_the_cuda_of_a_package_is_that_of_the_runtime_it_asks_for(monkeypatch, asked, cuda):
    monkeypatch.setattr(doctor, "requires", lambda name: asked)
    assert doctor._cuda_of("faiss-gpu") == cuda


def test_a_known_manifold_is_read_rightly_and_a_wrong_reading_is_broken(monkeypatch):
    assert doctor._twonn().state == "fine"
    monkeypatch.setattr("pipeline.geometry.describe", lambda points: {"id_twonn": 9.0})
    assert doctor._twonn().state == "broken"
    monkeypatch.setattr("pipeline.geometry.describe", lambda points: {"id_twonn": None})
    assert doctor._twonn().state == "broken"


def test_little_disk_is_a_note(monkeypatch):
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: SimpleNamespace(free=1e9))
    assert doctor._disk().state == "note"
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: SimpleNamespace(free=1e12))
    assert doctor._disk().state == "fine"


def test_a_store_that_lets_a_file_be_created_twice_is_a_note(monkeypatch, tmp_path):
    assert doctor._lake(str(tmp_path / "lake")).state == "fine"
    create = LocalStore.create_if_absent
    monkeypatch.setattr(LocalStore, "create_if_absent", lambda self, key, data: create(self, key, data) or True)
    check = doctor._lake(str(tmp_path / "lake"))
    assert (check.state, "created twice" in check.found) == ("note", True)


def test_a_lake_that_cannot_be_written_is_broken(tmp_path):
    (tmp_path / "file").touch()
    found = {check.name: check for check in doctor.run_checks(str(tmp_path / "file" / "lake"))}
    assert found["lake"].state == "broken"
    assert found["lake"].do
