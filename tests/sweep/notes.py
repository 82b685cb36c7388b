"""A Ray that only takes notes, and tasks to give to it."""

from types import SimpleNamespace

import pytest

from pipeline.recipe import built_in_recipe
from pipeline.spec import Cell, Corpus, HubFile, RemoteFiles, Resources
from pipeline.sweep import ray_backend
from pipeline.sweep.backend import TaskFunctions
from pipeline.sweep.ray_backend import RayBackend
from pipeline.sweep.task import Task
from tests.lake import made

GIB = 2**30


class Notes:
    """Ray's functions that the backend calls; what has `ended` is said, not done."""

    def __init__(self, *nodes: dict[str, float]) -> None:
        self.living = [
            {"NodeID": f"{index:056x}", "Alive": True, "NodeManagerHostname": f"n{index}", "Resources": node}
            for index, node in enumerate(nodes)
        ]
        self.submitted: list[dict[str, object]] = []
        self.answer: object = []
        self.ended: list[object] = []
        self.cancelled: list[object] = []

    def remote(self, **_: object):
        return lambda body: SimpleNamespace(options=lambda **options: self._with(options))

    def _with(self, options: dict[str, object]):
        return SimpleNamespace(remote=lambda *_: self.submitted.append(options) or object())

    def nodes(self):
        return self.living

    def cluster_resources(self) -> dict[str, float]:
        return {name: sum(n["Resources"].get(name, 0) for n in self.living) for name in ("CPU", "GPU")}

    def wait(self, refs: list[object], num_returns: int, timeout: float):
        return [ref for ref in refs if ref in self.ended], [ref for ref in refs if ref not in self.ended]

    def cancel(self, ref: object, force: bool = False) -> None:
        self.cancelled.append(ref)

    def get(self, ref: object, timeout: float = 0):
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def init(self, *_: object, **__: object) -> None: ...


def backend(monkeypatch: pytest.MonkeyPatch, notes: Notes, queue: int = 0, **resources: object) -> RayBackend:
    for name in ("remote", "nodes", "cluster_resources", "wait", "cancel", "get", "init"):
        monkeypatch.setattr(ray_backend.ray, name, getattr(notes, name))
    monkeypatch.setattr("pipeline.sweep.nodes.REFRESH_INTERVAL_S", 0.0)
    stages = TaskFunctions(lambda task: [], lambda task: [], lambda task: None)
    return RayBackend(stages, Resources.model_validate({"cpus": 4, "slots": 4, **resources}), queue=queue)


def task(step: int = 0, **changes: object) -> Task:
    checkpoint = made.checkpoint(step)
    fields = {"lake": "lake", "run_id": "run", "checkpoint": checkpoint, "cells": (), "resources": Resources(cpus=1)}
    return Task.model_construct(**{**fields, **changes})


def of_the_hub(step: int = 0, **changes: object) -> Task:
    """A task whose checkpoint must be fetched."""
    files = (HubFile(path="model.safetensors", size=1, sha256="0" * 64),)
    remote = RemoteFiles(repo="lab/small", commit="0" * 40, files=files)
    return task(step, **changes).model_copy(
        update={"checkpoint": made.checkpoint(step).model_copy(update={"remote": remote})}
    )


def cell_of(n_params: int, step: int = 0) -> Cell:
    checkpoint = made.checkpoint(step).model_copy(update={"n_params": n_params})
    return Cell(
        checkpoint=checkpoint, kind="decoder", corpus=Corpus(kind="random-uniform"), recipe=built_in_recipe("quick@1")
    )
