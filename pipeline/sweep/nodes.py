"""Where on a cluster a task's files go: bookkeeping over what Ray says of its nodes, without Ray."""

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

Node = dict[str, Any]
"""As `ray.nodes()` describes it."""
LOOK_S = 1.0
"""The nodes are asked for so often; for each task it would take half a millisecond."""


class Nodes:
    """The nodes that can run tasks, and which of them has the files of which task.

    Args:
        look: gives the nodes there are.
        fit: how many tasks a node can run at once, were it idle.
    """

    def __init__(self, look: Callable[[], list[Node]], fit: Callable[[Node], int]) -> None:
        self._look, self._fit = look, fit
        self._known: list[Node] = []
        self._looked_at = float("-inf")
        self._at: dict[str, str] = {}
        self._failures: Counter[str] = Counter()
        """Of fetching on each node, since it last went well."""

    @property
    def fitting(self) -> list[Node]:
        """Living nodes that could run a task, as they were a second ago."""
        if time.monotonic() - self._looked_at >= LOOK_S:
            self._known = [node for node in self._look() if node["Alive"] and self._fit(node)]
            self._looked_at = time.monotonic()
        return self._known

    def look_again(self) -> None:
        """One was lost: a task given to it before that is noticed would only be lost too."""
        self._looked_at = float("-inf")

    def place(self, content: str, gpus: int) -> str:
        """Id of the node where the files of a checkpoint shall go; empty while no node has so many GPUs.

        The one with the fewest tasks for those it can run; one where fetching fails counts as fuller by each failure.
        """
        load = Counter(self._at.values())
        fitting = [node for node in self.fitting if node["Resources"].get("GPU", 0) >= gpus]
        cost = {node["NodeID"]: load[node["NodeID"]] / self._fit(node) for node in fitting}
        if not cost:
            return ""
        self._at[content] = min(cost, key=lambda node: cost[node] + self._failures[node])
        return self._at[content]

    def of(self, content: str) -> str:
        """The node that has the files; empty where none has."""
        return self._at.get(content, "")

    def fetched(self, content: str, well: bool) -> None:
        """How the fetching went."""
        node = self.of(content)
        self._failures[node] = 0 if well else self._failures[node] + 1

    def leave(self, content: str) -> None:
        """The files have gone."""
        self._at.pop(content, None)

    def has_room(self, node: str, taken: int, shares: int) -> bool:
        """Whether so many more slots are free on a node of which so many are taken; of one that has gone, yes: what is
        given to it comes back at once."""
        fits = next((self._fit(known) for known in self.fitting if known["NodeID"] == node), None)
        return fits is None or taken + min(shares, fits) <= fits
