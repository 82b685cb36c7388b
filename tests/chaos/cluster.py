"""A Ray cluster of processes of this host, whose nodes can be lost and replaced. It ends with the block, by pid."""

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
"""Tasks at once on each node."""
STORE_BYTES = 80 * 2**20


def environment(folder: Path) -> dict[str, str]:
    """What all processes of a chaos run share; Ray reads its part of it once, when it is imported."""
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",  # 15 by default: on a busy machine the workers would hardly run
        # A node that has gone is missed after 3 s, by default after 15, for which it would keep its tasks.
        "RAY_health_check_period_ms": "1000",
        "RAY_health_check_failure_threshold": "3",
        "RAY_TMPDIR": str(folder / "ray"),
        "SHAPELAKE_CACHE": str(folder / "cache"),
        "PYTHONPATH": str(ROOT),
    }


class Nodes:
    """Worker nodes that can be killed; the head has no CPU and stays."""

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
        """Kill every process of one node at once; another takes its place."""
        nodes = sorted(self._cluster.worker_nodes, key=lambda node: node.unique_id)
        self._cluster.remove_node(rng.choice(nodes), allow_graceful=False)
        self.add()

    def close(self) -> None:
        """At once: asked politely, the processes of a node take up to a minute to end."""
        for node in [*self._cluster.worker_nodes, self._cluster.head_node]:
            self._cluster.remove_node(node, allow_graceful=False)


@contextmanager
def nodes(n: int, folder: Path) -> Iterator[Nodes]:
    """A head and `n` nodes; import nothing of Ray before."""
    (folder / "ray").mkdir()
    os.environ.update(environment(folder))
    made = Nodes(n)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # Ray has set its own, which leaves our children behind
    try:
        yield made
    finally:
        made.close()
