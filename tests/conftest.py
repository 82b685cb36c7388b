"""Shared by all tests: no network, a cache of their own, and the folder of outside test inputs where it is there.

Nothing here may import `pipeline` at the top: the jaxtyping hook must see its first import.
"""

import os
import socket
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
    RAY_worker_niceness="0",  # 15 by default: on a busy machine the workers would hardly run
    OMP_NUM_THREADS="2",
    OMP_WAIT_POLICY="PASSIVE",
)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With `-m gpu` no other file is even imported: where there is a GPU, Ray, FAISS or pyarrow may be absent."""
    if config.getoption("markexpr") == "gpu" and collection_path.parent == ROOT / "tests":
        return collection_path.name != "gpu"
    return None


@pytest.fixture
def shared() -> Callable[[str], Path]:
    """Path of an input nobody here computed; skips where the folder is absent."""

    def find(name: str) -> Path:
        path = SHARED / name
        if not path.exists():
            pytest.skip(f"needs {name} of the shared folder beside the project, which is not there")
        return path

    return find


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
    """Ray's local processes speak over this machine's own address."""
    return host in {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None)}
