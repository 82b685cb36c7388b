"""Nodes of a cluster: their capacity for tasks, and the node that holds each checkpoint's files. Imports no Ray."""

import socket
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from pipeline.errors import UsageError
from pipeline.measurement.memory import count_gpus_for_weights
from pipeline.spec import Cell, Resources

RayNode = dict[str, Any]
"""One node, as `ray.nodes()` describes it."""
REFRESH_INTERVAL_S = 1.0
"""Age in seconds at which the node list is read again. Reading it for every task would cost half a millisecond each."""


class NodeTracker:
    """Record of the nodes that can run tasks of these resources, and of the node that has each checkpoint's files.

    Args:
        list_nodes: function that returns the nodes of the cluster, such as `ray.nodes`.
    """

    def __init__(self, list_nodes: Callable[[], list[RayNode]], resources: Resources) -> None:
        self._list_nodes, self._resources = list_nodes, resources
        self._usable: list[RayNode] = []
        self._refreshed_at = float("-inf")
        self._node_by_content: dict[str, str] = {}
        self._fetch_failures: Counter[str] = Counter()
        """Maps a node id to the number of failed fetches since the node's last successful one."""
        self._failed_nodes: dict[str, set[str]] = {}
        """Maps the content of a checkpoint to the nodes on which its fetch failed; a success removes the entry."""

    @property
    def usable_nodes(self) -> list[RayNode]:
        """Living nodes that can run a task; the list is at most REFRESH_INTERVAL_S old."""
        if time.monotonic() - self._refreshed_at >= REFRESH_INTERVAL_S:
            self._usable = [node for node in self._alive() if self._fit(node)]
            self._refreshed_at = time.monotonic()
        return self._usable

    def invalidate(self) -> None:
        """Refresh the node list at the next use, because a node was lost."""
        self._refreshed_at = float("-inf")

    def assign_node(self, content: str, gpus: int) -> str:
        """Choose the node for a checkpoint's files; return its id, or an empty string while no node has enough GPUs.

        The node with the lowest load is chosen. The load is the number of checkpoints assigned to a node, divided by
        the number of tasks that it can run, plus one per failed fetch since its last successful one. A node on which
        the fetch of this checkpoint failed is chosen only if there is no other.
        """
        load = Counter(self._node_by_content.values())
        fitting = [node for node in self.usable_nodes if node["Resources"].get("GPU", 0) >= gpus]
        cost = {node["NodeID"]: load[node["NodeID"]] / self._fit(node) for node in fitting}
        if not cost:
            return ""
        failed = self._failed_nodes.get(content, ())
        node = min(cost, key=lambda node: (node in failed, cost[node] + self._fetch_failures[node]))
        self._node_by_content[content] = node
        return node

    def find_node(self, content: str) -> str:
        """Return the id of the node that has the files; empty if no node has them."""
        return self._node_by_content.get(content, "")

    def find_host(self, content: str) -> str:
        """Return the host of the node that has the files; empty if the host is not known."""
        found = self.find_node(content)
        hosts = (node["NodeManagerHostname"] for node in self._list_nodes() if found and node["NodeID"] == found)
        return next(hosts, "")

    def find_node_of_host(self, host: str) -> str:
        """Return the id of the node on this host; empty if Ray does not know the host.

        If a host has several nodes, such as a head without CPUs, a node that can run tasks is preferred, then a living
        one. A task that is bound to a dead node fails immediately, as `preempted`.
        """
        nodes = [node for node in self._list_nodes() if node["NodeManagerHostname"] == host]
        best = max(nodes, key=lambda node: (node["Alive"], self._fit(node)), default=None)
        return best["NodeID"] if best else ""

    def record_fetch(self, content: str, well: bool) -> None:
        """Record whether the fetch of a checkpoint succeeded on its node."""
        node = self.find_node(content)
        self._fetch_failures[node] = 0 if well else self._fetch_failures[node] + 1
        if well:
            self._failed_nodes.pop(content, None)
        else:
            self._failed_nodes.setdefault(content, set()).add(node)

    def forget_files(self, content: str) -> None:
        """Forget which node has a checkpoint's files, because they were deleted or lost."""
        self._node_by_content.pop(content, None)

    def has_room(self, node: str, taken: int, needed: int) -> bool:
        """Return True if a node with `taken` slots in use has room for a task of `needed` slots.

        A node with fewer than `needed` slots has room if none is in use. A lost node always has room: tasks that are
        bound to it are submitted, and fail immediately.
        """
        fits = next((self._fit(usable) for usable in self.usable_nodes if usable["NodeID"] == node), None)
        return fits is None or taken + min(needed, fits) <= fits

    def count_gpus(self, cells: Iterable[Cell]) -> int:
        """Return the number of GPUs that a task with these cells needs; 0 if `resources` has no GPU.

        It is more than one if a single GPU cannot hold the weights.
        """
        return max(map(self._gpus, cells), default=1) if self._resources.gpus else 0

    def memory_bytes(self, slots: int) -> int:
        """Return the bytes of memory that Ray reserves for a task of `slots` slots, computed for the smallest node."""
        nodes = [(node["Resources"].get("memory", 0), self._fit(node)) for node in self.usable_nodes]
        return int(min((memory / fits * min(slots, fits) for memory, fits in nodes), default=0))

    def require_usable_node(self) -> None:
        """Check that some node can run a task; Ray itself would wait for such a node without an error.

        Raises:
            UsageError: no node can; the message lists the CPUs and GPUs of the nodes.
        """
        if not self.usable_nodes:
            have = [node["Resources"] for node in self._alive()]
            best = ", ".join(f"{n.get('CPU', 0):g} CPUs and {n.get('GPU', 0):g} GPUs" for n in have) or "none"
            raise UsageError(
                f"a task of {self._resources.threads} CPUs and {min(self._resources.gpus, 1)} GPUs",
                f"no node has that much (nodes: {best})",
                "Set resources.cpus, resources.slots and resources.gpus to what the nodes have",
            )

    def find_too_large(self, cells: Iterable[Cell]) -> dict[str, str]:
        """Map the id of each cell whose model needs more GPUs than any node has to this reason, as text."""
        if not self._resources.gpus or not self.usable_nodes:
            return {}
        most = max(int(node["Resources"]["GPU"]) for node in self.usable_nodes)
        found = {cell.id: wanted for cell in cells if (wanted := self._gpus(cell)) > most}
        reason = f"GPUs of {self._resources.gpu_gb:g} GB are needed in one node; the largest node has {most}"
        return {cell_id: f"{wanted} {reason}" for cell_id, wanted in found.items()}

    def _gpus(self, cell: Cell) -> int:
        return count_gpus_for_weights(cell.checkpoint.n_params, cell.recipe.dtype, self._resources.gpu_bytes)

    def _alive(self) -> list[RayNode]:
        return [node for node in self._list_nodes() if node["Alive"]]

    def _fit(self, node: RayNode) -> int:
        """Return the number of tasks that an idle node can run at the same time."""
        want = {"CPU": self._resources.threads, "GPU": min(self._resources.gpus, 1)}
        return min(int(node["Resources"].get(name, 0) // count) for name, count in want.items() if count)


def require_listener(address: str) -> None:
    """Check that a Ray head listens at HOST:PORT; Ray itself would wait two minutes for it.

    Raises:
        UsageError: nothing listens there.
    """
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        do = "Start the Ray head, or use --address local"
        raise UsageError(f"Ray at {address}", f"nothing listens there ({error})", do) from error


def accepts_connections(host: str, port: int) -> bool:
    """Return True if something listens at this address."""
    try:
        socket.create_connection((host, port), timeout=5).close()
    except OSError:
        return False
    return True


def find_missing_paths(paths: list[str]) -> list[str]:
    """Return the paths that do not exist on this node."""
    return [path for path in paths if not Path(path).exists()]
