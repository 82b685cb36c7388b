"""Connection to a Ray cluster. It starts a local Ray or attaches to a cluster, runs functions on all nodes, frees the
scratch of dead drivers, and shuts Ray down.

Ray is imported in this file, `ray_backend.py`, `ray_errors.py` and `ray_jobs.py` and nowhere else.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import chdir, suppress
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.catalog.scratch import current_owner, is_driver_dead, list_owners, release_owned_by
from pipeline.errors import BackendLostError, UsageError
from pipeline.spec import Resources
from pipeline.sweep import ray_reaper
from pipeline.sweep.nodes import RayNode, accepts_connections, find_missing_paths, require_listener
from pipeline.sweep.ray_errors import NODE_LOST_ERRORS
from pipeline.sweep.ray_local import prepare_ray_tmpdir
from pipeline.sweep.signals import defer_sigterm, preserve_sigterm_handler

OBJECT_STORE_BYTES = 100 * 2**20  # tasks and outcomes are a few kilobytes; hidden states never travel
PACKAGE_PARENT = Path(__file__).resolve().parents[2]
WORKER_ENVIRONMENT = ("HF_ENDPOINT", "HF_HUB_OFFLINE")
"""Environment variables that workers on other nodes get from the driver, so that all use the same Hub endpoint and
offline mode."""
NODE_ANSWER_TIMEOUT_S = 30.0
HEAD_TIMEOUT_S = 30.0
"""Seconds to wait for a head that restarts, after which the run stops. Ray itself gives up after 60 s."""


class RayCluster:
    """Connection of one run to Ray: to a local Ray that it starts, or to a running cluster."""

    def __init__(self, resources: Resources) -> None:
        self._resources = resources
        self.is_local = resources.address == "local"
        self._head_seen_at = float("-inf")
        self._is_lost = False
        """True if the head does not answer, so that calls of Ray would block."""
        self._reaper: subprocess.Popen[bytes] | None = None

    def connect(self) -> None:
        """Start a local Ray or attach to the cluster at `resources.address`.

        Raises:
            UsageError: nothing listens at the address, or Ray cannot be started.
        """
        address = self._resources.address
        if not self.is_local:
            require_listener(address)
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        options = self._options()
        try:
            # Ray puts the current folder first into the workers' import path, and that folder may have a `pipeline`.
            with defer_sigterm(), chdir(PACKAGE_PARENT):
                ray.init(address, **options)
                self._start_reaper()
        except SystemExit:
            self.close()
            raise
        except (OSError, RuntimeError, ValueError) as error:
            first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise UsageError(f"Ray at {address}", first, "Start the cluster, or use --address local") from error

    def _start_reaper(self) -> None:
        """Start the reaper, which ends leftover processes of a local Ray after this process, even if it is killed."""
        if self.is_local:
            words = [sys.executable, "-S", ray_reaper.__file__, str(os.getpid())]
            self._reaper = subprocess.Popen(words, stdin=subprocess.PIPE, start_new_session=True)

    def nodes(self) -> list[RayNode]:
        """Return the nodes of the cluster, including dead ones; raise BackendLostError if the head is gone."""
        self.require_head()
        return ray.nodes()

    def resources(self) -> Mapping[str, float]:
        """Return the total resources of the living nodes; raise BackendLostError if the head is gone."""
        self.require_head()
        return ray.cluster_resources()

    def require_head(self, max_age_s: float = 0.0) -> None:
        """Check that Ray's head accepts connections; wait up to HEAD_TIMEOUT_S for the head of a cluster to come back.

        The head of a local Ray never comes back. Without a head, calls of Ray block, and after 60 s Ray ends this
        process without a report.

        Args:
            max_age_s: if the head has answered within this many seconds, it is not asked again.

        Raises:
            BackendLostError: the head does not answer.
        """
        if time.monotonic() - self._head_seen_at < max_age_s:
            return
        host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
        host = "127.0.0.1" if self.is_local else host
        deadline = time.monotonic() + (0.0 if self.is_local else HEAD_TIMEOUT_S)
        while not accepts_connections(host, int(port)):
            if time.monotonic() >= deadline:
                self._is_lost = True
                do = "Run the sweep again" if self.is_local else "Restart the head, and run the sweep again"
                raise BackendLostError(f"Ray at {host}:{port}", "its head (GCS) does not answer", do)
            time.sleep(1.0)
        self._head_seen_at = time.monotonic()

    def _options(self) -> dict[str, Any]:
        options: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
        if not self.is_local:
            environment = {name: os.environ[name] for name in WORKER_ENVIRONMENT if name in os.environ}
            return options | {"runtime_env": {"env_vars": environment}}
        return options | {
            "num_cpus": self._resources.threads * self._resources.n_slots,
            "num_gpus": self._resources.gpus,
            "object_store_memory": OBJECT_STORE_BYTES,
            "_temp_dir": str(prepare_ray_tmpdir()),
        }

    def close(self) -> None:
        """Free this driver's scratch on every node and shut Ray down."""
        if not (self.is_local or self._is_lost):
            with suppress(RayError, BackendLostError):  # a node that does not answer frees its scratch after a day
                self.ask_nodes(release_owned_by, [current_owner()])
        with preserve_sigterm_handler():  # Ray's shutdown resets the handler in C
            ray.shutdown()
        if self._reaper:
            self._reaper.communicate()  # closes the reaper's input and waits for its end

    def free_dead_drivers(self) -> None:
        """Free, on all nodes, the scratch of drivers that ran on this machine and have died.

        Only this machine can tell whether these drivers have died.
        """
        if self.is_local:
            return
        owners = {owner for _, found in self.ask_nodes(list_owners) for owner in found or ()}
        if dead := sorted(owner for owner in owners if is_driver_dead(owner)):
            self.ask_nodes(release_owned_by, dead)

    def require_visible(self, paths: Iterable[str]) -> None:
        """Check that every node sees every path.

        Raises:
            UsageError: a path is missing on a node; the message lists the missing paths of each node.
        """
        if self.is_local:
            return
        answers = self.ask_nodes(find_missing_paths, sorted(paths))
        lacking = [f"{node} lacks {', '.join(answer[:3])}" for node, answer in answers if answer]
        lacking += [f"{node} does not answer" for node, answer in answers if answer is None]
        if lacking:
            do = "Put the files on storage that every node mounts at the same path"
            raise UsageError("local files on a cluster", "; ".join(lacking), do)

    def ask_nodes(self, function: Callable[..., Any], *args: Any) -> list[tuple[str, Any]]:
        """Call `function(*args)` on every living node; return (host, result) pairs.

        The result is None for a node on which the call fails or that does not answer within NODE_ANSWER_TIMEOUT_S. A
        node that is lost meanwhile is left out.
        """
        if self.is_local:
            return [("", function(*args))]
        remote = make_remote(function, num_cpus=0)
        nodes = [node for node in self.nodes() if node["Alive"]]
        hosts = {remote.options(**pin_to_node(n["NodeID"])).remote(*args): n["NodeManagerHostname"] for n in nodes}
        answered, silent = ray.wait(list(hosts), num_returns=len(hosts), timeout=NODE_ANSWER_TIMEOUT_S)
        for ref in silent:
            ray.cancel(ref, force=True)
        answers = [(hosts[ref], None) for ref in silent]
        for ref in answered:
            try:
                answers.append((hosts[ref], ray.get(ref)))
            except NODE_LOST_ERRORS:
                continue
            except RayError:
                answers.append((hosts[ref], None))
        return answers


def make_remote(function: Callable[..., Any], **options: Any) -> Any:
    """Return a Ray remote function that Ray never retries."""
    decorate: Any = ray.remote  # its overloads lack `name`
    return decorate(max_retries=0, retry_exceptions=False, **options)(function)


def pin_to_node(node: str) -> dict[str, Any]:
    """Return the Ray options that bind a task to one node."""
    return {"scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=False)}
