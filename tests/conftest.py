"""Fixtures of all tests: no network, a separate cache, and the optional folder of shared test inputs.

Do not import `pipeline` at module level here: the jaxtyping hook must see its first import.
"""

import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"

os.environ.update(
    HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    RAY_USAGE_STATS_ENABLED="0",
    RAY_AUTH_MODE="disabled",
    RAY_worker_niceness="0",  # default 15: on a busy machine the workers would starve
    OMP_NUM_THREADS="2",
    OMP_WAIT_POLICY="PASSIVE",
)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Skip other test files under `-m gpu`, even their import: a GPU machine may lack Ray, FAISS or pyarrow."""
    if config.getoption("markexpr") == "gpu" and collection_path.parent == ROOT / "tests":
        return collection_path.name != "gpu"
    return None


@pytest.fixture
def shared() -> Callable[[str], Path]:
    """Return the path of a shared input that was computed independently; skip if it is absent."""

    def find(name: str) -> Path:
        path = SHARED / name
        if not path.exists():
            pytest.skip(f"needs {name} in the folder shared/ beside the project")
        return path

    return find


@pytest.fixture
def shapelake(monkeypatch, capsys):
    """Run the command line in this process; returns (exit code, standard output, standard error)."""

    def call(*words: object) -> tuple[int, str, str]:
        from pipeline.cli import main

        monkeypatch.setattr(sys, "argv", ["shapelake", *map(str, words)])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        out = capsys.readouterr()
        return code, out.out, out.err

    return call


@pytest.fixture
def measured_lake(tmp_path, shapelake):
    """Lake with one history of three checkpoints, `runs` beside it, measured on text."""
    from tests.support import tiny_checkpoints as tiny

    root = tiny.history(tmp_path / "runs", [0, 1, 10])
    lake = tmp_path / "lake"
    code, *_ = shapelake("run", tiny.sweep_file(tmp_path, root), "--lake", lake, "--backend", "inline")
    assert code == 0
    return lake


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHAPELAKE_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse every connection that leaves this machine."""
    connect = socket.socket.connect

    def local_only(self: socket.socket, address: object) -> None:
        host = address[0] if isinstance(address, tuple) else ""
        if self.family != socket.AF_UNIX and host not in ("127.0.0.1", "localhost", "::1") and not _is_own(host):
            raise OSError(f"a test tried to reach {address}")
        connect(self, address)  # type: ignore[arg-type]

    monkeypatch.setattr(socket.socket, "connect", local_only)


def _is_own(host: str) -> bool:
    """Return True for this machine's own address, over which Ray's local processes communicate."""
    return host in {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None)}
