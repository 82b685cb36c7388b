"""Fake Ray that records what the backend submits and finishes it on command, and tasks to submit."""

from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from pipeline.recipe import built_in_recipe
from pipeline.spec import Cell, Corpus, HubFile, RemoteFiles, Resources
from pipeline.sweep.backend import TaskFunctions
from pipeline.sweep.ray_backend import RayBackend
from pipeline.sweep.task import Task
from tests.support import lake_rows

GIB = 2**30


@dataclass(eq=False)
class Submitted:
    """One Ray task: the name of its function, its options and its arguments. It is its own object reference."""

    name: str
    options: dict[str, Any]
    args: tuple[Any, ...]
    ended: bool = False
    result: Any = field(default_factory=list)

    @property
    def node(self) -> str:
        return self.options["scheduling_strategy"].node_id

    @property
    def step(self) -> int:
        return self.args[0].checkpoint.step

    def finish(self, result: Any) -> None:
        """End the task with a return value, or with an exception that `ray.get` raises."""
        self.ended, self.result = True, result


class FakeRay:
    """The functions of Ray that the backend calls, over nodes with the given resources.

    Functions asked of a node (neither fetch, measure nor discard) end at once with the value that `on_node` gives by
    (function name, host); a host it does not answer for is silent.
    """

    def __init__(self, *nodes: dict[str, float], on_node: Callable[[str, str], Any] = lambda name, host: []) -> None:
        self.living = [
            {"NodeID": f"{index:056x}", "Alive": True, "NodeManagerHostname": f"n{index}", "Resources": node}
            for index, node in enumerate(nodes)
        ]
        self.on_node = on_node
        self.silent: set[str] = set()
        self.submitted: list[Submitted] = []
        self.cancelled: list[Submitted] = []

    def named(self, name: str) -> list[Submitted]:
        """Submitted tasks of one function, in order."""
        return [one for one in self.submitted if one.name == name]

    def remote(self, name: str = "", **_: object):
        return lambda body: SimpleNamespace(
            options=lambda **options: SimpleNamespace(
                remote=lambda *args: self._submit(Submitted(name or body.__name__, options, args))
            )
        )

    def _submit(self, one: Submitted) -> Submitted:
        self.submitted.append(one)
        if one.name == "discard":
            one.finish(None)
        elif one.name not in ("fetch", "measure"):
            host = next(node["NodeManagerHostname"] for node in self.living if node["NodeID"] == one.node)
            if host not in self.silent:
                one.finish(self.on_node(one.name, host))
        return one

    def nodes(self):
        return self.living

    def cluster_resources(self) -> dict[str, float]:
        return {name: sum(n["Resources"].get(name, 0) for n in self.living) for name in ("CPU", "GPU")}

    def wait(self, refs: list[Submitted], num_returns: int, timeout: float):
        ready = [ref for ref in refs if ref.ended][:num_returns]
        return ready, [ref for ref in refs if ref not in ready]

    def cancel(self, ref: Submitted, force: bool = False) -> None:
        self.cancelled.append(ref)

    def get(self, ref: Submitted, timeout: float = 0):
        if isinstance(ref.result, Exception):
            raise ref.result
        return ref.result

    def init(self, *_: object, **__: object) -> None: ...

    def shutdown(self) -> None: ...


def open_backend(
    monkeypatch: pytest.MonkeyPatch, fake: FakeRay, ahead: int = 0, queue: int = 0, **resources: object
) -> RayBackend:
    for name in ("remote", "nodes", "cluster_resources", "wait", "cancel", "get", "init", "shutdown"):
        monkeypatch.setattr(ray, name, getattr(fake, name))
    monkeypatch.setattr("pipeline.sweep.ray_cluster.RayCluster.require_head", lambda cluster, max_age_s=0.0: None)
    monkeypatch.setattr("pipeline.sweep.nodes.REFRESH_INTERVAL_S", 0.0)
    stages = TaskFunctions(lambda task: [], lambda task: [], lambda task: None)
    return RayBackend(stages, Resources.model_validate({"cpus": 4, "slots": 4, **resources}), ahead, queue)


def task(step: int = 0, **changes: object) -> Task:
    checkpoint = lake_rows.checkpoint(step)
    fields = {"lake": "lake", "run_id": "run", "checkpoint": checkpoint, "cells": (), "resources": Resources(cpus=1)}
    return Task.model_construct(**{**fields, **changes})


def hub_task(step: int = 0, **changes: object) -> Task:
    """A task whose checkpoint must be fetched."""
    files = (HubFile(path="model.safetensors", size=1, sha256="0" * 64),)
    remote = RemoteFiles(repo="lab/small", commit="0" * 40, files=files)
    return task(step, **changes).model_copy(
        update={"checkpoint": lake_rows.checkpoint(step).model_copy(update={"remote": remote})}
    )


def cell_of_size(n_params: int, step: int = 0) -> Cell:
    checkpoint = lake_rows.checkpoint(step).model_copy(update={"n_params": n_params})
    return Cell(
        checkpoint=checkpoint, kind="decoder", corpus=Corpus(kind="random-uniform"), recipe=built_in_recipe("quick@1")
    )
