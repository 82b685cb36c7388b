"""Ray cluster of local processes whose nodes can be killed and replaced; ended by process id on exit."""

import os
import random
import secrets
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
CPUS = 2
"""Concurrent tasks per node."""
STORE_BYTES = 80 * 2**20


def environment(folder: Path) -> dict[str, str]:
    """Return the environment of all processes of a chaos run; Ray reads its variables once, on import."""
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",  # the default of 15 starves the workers on a busy machine
        # A lost node is detected after 3 s instead of 15 s, during which its tasks would hang.
        "RAY_health_check_period_ms": "1000",
        "RAY_health_check_failure_threshold": "3",
        "RAY_TMPDIR": str(folder / "ray"),
        "SHAPELAKE_CACHE": str(folder / "cache"),
        "PYTHONPATH": str(ROOT),
    }


class Nodes:
    """Worker nodes that can be killed; the head has no CPUs and survives."""

    def __init__(self, n: int) -> None:
        from ray.cluster_utils import Cluster

        self._cluster = Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": 0, "include_dashboard": False, "object_store_memory": STORE_BYTES},
        )
        for _ in range(n):
            self.add()

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    def add(self) -> None:
        self._cluster.add_node(num_cpus=CPUS, object_store_memory=STORE_BYTES)

    def lose(self, rng: random.Random) -> None:
        """Kill all processes of a random node at once, and add a replacement."""
        nodes = sorted(self._cluster.worker_nodes, key=lambda node: node.unique_id)
        self._cluster.remove_node(rng.choice(nodes), allow_graceful=False)
        self.add()

    def close(self) -> None:
        """Kill all nodes; a graceful stop takes up to a minute per node."""
        for node in [*self._cluster.worker_nodes, self._cluster.head_node]:
            self._cluster.remove_node(node, allow_graceful=False)


@contextmanager
def nodes(n: int, folder: Path) -> Iterator[Nodes]:
    """Start a head and `n` worker nodes; Ray must not be imported before."""
    (folder / "ray").mkdir()
    os.environ.update(environment(folder))
    cluster = Nodes(n)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # Ray's own handler leaves child processes behind
    try:
        yield cluster
    finally:
        cluster.close()
