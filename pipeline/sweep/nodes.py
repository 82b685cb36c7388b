"""The nodes of a cluster: what each can run, and whose files lie where. Bookkeeping over what Ray says, without Ray."""

import socket
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from pipeline.errors import UsageError
from pipeline.memory import count_gpus_for_weights
from pipeline.spec import Cell, Resources

RayNode = dict[str, Any]
"""As `ray.nodes()` describes it."""
REFRESH_INTERVAL_S = 1.0
"""The nodes are asked for so often; for each task it would take half a millisecond."""


class NodeTracker:
    """The nodes that can run tasks of these resources, and which of them has the files of which checkpoint.

    Args:
        look: gives the nodes there are.
    """

    def __init__(self, look: Callable[[], list[RayNode]], resources: Resources) -> None:
        self._look, self._resources = look, resources
        self._known: list[RayNode] = []
        self._looked_at = float("-inf")
        self._at: dict[str, str] = {}
        self._failures: Counter[str] = Counter()
        """Of fetching on each node, since it last went well."""
        self._failed_at: dict[str, set[str]] = {}

    @property
    def usable_nodes(self) -> list[RayNode]:
        """Living nodes that could run a task, as they were a second ago."""
        if time.monotonic() - self._looked_at >= REFRESH_INTERVAL_S:
            self._known = [node for node in self._alive() if self._fit(node)]
            self._looked_at = time.monotonic()
        return self._known

    def invalidate(self) -> None:
        """One was lost: a task given to it before that is noticed would only be lost too."""
        self._looked_at = float("-inf")

    def assign_node(self, content: str, gpus: int) -> str:
        """Id of the node where the files of a checkpoint shall go; empty while no node has so many GPUs.

        The one with the fewest tasks for those it can run. One where fetching fails counts as fuller by each failure;
        one where that of this checkpoint has failed comes last.
        """
        load = Counter(self._at.values())
        fitting = [node for node in self.usable_nodes if node["Resources"].get("GPU", 0) >= gpus]
        cost = {node["NodeID"]: load[node["NodeID"]] / self._fit(node) for node in fitting}
        if not cost:
            return ""
        failed_at = self._failed_at.get(content, ())
        self._at[content] = min(cost, key=lambda node: (node in failed_at, cost[node] + self._failures[node]))
        return self._at[content]

    def find_node(self, content: str) -> str:
        """The node that has the files; empty where none has."""
        return self._at.get(content, "")

    def find_host(self, content: str) -> str:
        """The host of that node; empty if it is not known."""
        at = self.find_node(content)
        return next((node["NodeManagerHostname"] for node in self._look() if at and node["NodeID"] == at), "")

    def record_fetch(self, content: str, well: bool) -> None:
        """How the fetching went."""
        node = self.find_node(content)
        self._failures[node] = 0 if well else self._failures[node] + 1
        if well:
            self._failed_at.pop(content, None)
        else:
            self._failed_at.setdefault(content, set()).add(node)

    def forget_files(self, content: str) -> None:
        """The files have gone."""
        self._at.pop(content, None)

    def has_room(self, node: str, taken: int, shares: int) -> bool:
        """Whether so many more slots are free on a node of which so many are taken; of one that has gone, yes: what is
        given to it comes back at once."""
        fits = next((self._fit(known) for known in self.usable_nodes if known["NodeID"] == node), None)
        return fits is None or taken + min(shares, fits) <= fits

    def count_gpus(self, cells: Iterable[Cell]) -> int:
        """Of a task of these cells, all on one node: several where one has no room for the weights."""
        return max(map(self._gpus, cells), default=1) if self._resources.gpus else 0

    def memory_bytes(self, shares: int) -> int:
        """Bytes that are set aside for a task on its node: one share is a slot's, of the smallest node."""
        nodes = [(node["Resources"].get("memory", 0), self._fit(node)) for node in self.usable_nodes]
        return int(min((memory / slots * min(shares, slots) for memory, slots in nodes), default=0))

    def require_usable_node(self) -> None:
        """An impossible request would wait for ever without a word.

        Raises: UsageError with what the nodes have.
        """
        if not self.usable_nodes:
            have = [node["Resources"] for node in self._alive()]
            best = ", ".join(f"{n.get('CPU', 0):g} CPUs and {n.get('GPU', 0):g} GPUs" for n in have)
            raise UsageError(
                f"a task of {self._resources.threads} CPUs and {min(self._resources.gpus, 1)} GPUs",
                f"no node has that much (nodes: {best})",
                "Set resources.cpus, resources.slots and resources.gpus to what the nodes have",
            )

    def find_too_large(self, cells: Iterable[Cell]) -> dict[str, str]:
        """Cells of models that take more GPUs than any node has, whose tasks would wait for ever; by cell id, why."""
        if not self._resources.gpus or not self.usable_nodes:
            return {}
        most = max(int(node["Resources"]["GPU"]) for node in self.usable_nodes)
        found = {cell.id: wanted for cell in cells if (wanted := self._gpus(cell)) > most}
        beside = f"GPUs of {self._resources.gpu_gb:g} GB in one node are wanted, the largest node has {most}"
        return {cell_id: f"{wanted} {beside}" for cell_id, wanted in found.items()}

    def _gpus(self, cell: Cell) -> int:
        """GPUs that have room for the model."""
        return count_gpus_for_weights(cell.checkpoint.n_params, cell.recipe.dtype, self._resources.gpu_bytes)

    def _alive(self) -> list[RayNode]:
        return [node for node in self._look() if node["Alive"]]

    def _fit(self, node: RayNode) -> int:
        """Tasks that the node can run at once, were it idle."""
        want = {"CPU": self._resources.threads, "GPU": min(self._resources.gpus, 1)}
        return min(int(node["Resources"].get(name, 0) // count) for name, count in want.items() if count)


def require_listener(address: str) -> None:
    """Ray itself would wait two minutes for a head that is not there.

    Raises: UsageError if nothing listens at HOST:PORT.
    """
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise UsageError(
            f"Ray at {address}", f"nothing listens there ({error})", "Start the head, or use --address local"
        ) from error


def find_missing_paths(paths: list[str]) -> list[str]:
    """Of these, what cannot be seen from this node."""
    return [path for path in paths if not Path(path).exists()]
