"""Ray head with dashboard and token in separate processes, for tests that connect to it as a client."""

import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

START_S = 120.0


class Head(NamedTuple):
    """Dashboard address and the environment that its clients need."""

    dashboard: str
    environment: dict[str, str]

    @property
    def token(self) -> str:
        """Token for clients in a process whose Ray has already read another environment."""
        return self.environment["RAY_AUTH_TOKEN"]


@contextmanager
def head(cpus: int) -> Iterator[Head]:
    """Start a head; on exit end its processes and no others."""
    gcs, dashboard = free_port(), free_port()
    environment = os.environ | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    words = ["--head", "--block", f"--port={gcs}", f"--dashboard-port={dashboard}", "--dashboard-host=127.0.0.1"]
    words += ["--include-dashboard=true", f"--num-cpus={cpus}", f"--object-store-memory={80 * 2**20}"]
    with tempfile.TemporaryDirectory(prefix="r", ignore_cleanup_errors=True) as folder:  # sockets need a short path
        log = Path(folder) / "start.log"
        with log.open("w") as out:
            started = subprocess.Popen(
                [sys.executable, "-m", "ray.scripts.scripts", "start", *words, f"--temp-dir={folder}/ray"],
                env=environment,
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        try:
            _wait_for(dashboard, started, log)
            yield Head(f"http://127.0.0.1:{dashboard}", environment)
        finally:
            started.terminate()  # with --block it ends the processes that it started
            started.wait(60)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait_for(port: int, started: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + START_S
    while True:
        assert started.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.2)
