"""Stub checkpoints and a stub task body, so that the driver can be tested with hundreds of them.

A stub checkpoint is a folder with a config, a few weight bytes and, where it should misbehave, a file `fault`:
CLASS fails every time, CLASS:N the first N times. Every attempt is logged beside it.
"""

import faulthandler
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

from pipeline.lake import Lake, to_table
from pipeline.spec import Cell, Corpus, Local, Resources, Sweep, algorithm_number
from pipeline.sweep.task import Outcome, Task, fail_all_cells
from pipeline.sweep.watchdog import exit_on_timeout, mark_in_flight
from pipeline.sweep.worker import classify_error, format_error

CONFIG = {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"}
LAYERS = 3


def history(root: Path, steps: list[int], faults: dict[int, str] | None = None, same: bool = False) -> Path:
    """Create a folder of stub checkpoints; `same` gives all of them equal weights."""
    for step in steps:
        folder = root / f"step{step}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(CONFIG))
        (folder / "model.safetensors").write_bytes(b"weights" if same else f"weights {step}".encode())
        (folder / "tokenizer.json").write_text("{}")
        if fault := (faults or {}).get(step):
            (folder / "fault").write_text(fault)
    return root


def sweep(root: Path, n_corpora: int = 1, **resources: object) -> Sweep:
    """Sweep over a stub history on `n_corpora` corpora."""
    corpora = [Corpus(kind="random-uniform")]
    for index in range(n_corpora - 1):
        path = root.parent / f"text{index}.txt"
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        partial.write_text(f"text {index}")
        partial.replace(path)  # atomic: another driver of the test may be reading the text
        corpora.append(Corpus(kind="text", path=str(path)))
    return Sweep(
        name="stub",
        checkpoints=(Local(local=str(root)),),
        corpora=tuple(corpora),
        recipe="quick@1",  # type: ignore[arg-type]
        resources=Resources.model_validate({"cpus": 1, "slots": 1, **resources}),
    )


def work(task: Task) -> list[Outcome]:
    """Commit stub rows, or fail as the checkpoint's `fault` says."""
    folder = Path(task.checkpoint.path)
    tries = folder / "tries"
    with tries.open("a") as file:
        file.write(f"{task.attempt} {task.batch_tokens} {' '.join(cell.id for cell in task.cells)}\n")
    fault = folder / "fault"
    if fault.exists():
        name, _, times = fault.read_text().partition(":")
        if not times or len(tries.read_text().splitlines()) <= int(times):
            return _misbehave(name, task)
    return [commit(task, cell) for cell in task.cells]


def watched(task: Task) -> list[Outcome]:
    """`work`, under the worker's watchdog only for a checkpoint that hangs: others may be slow on a busy machine."""
    fault = Path(task.checkpoint.path) / "fault"
    with exit_on_timeout(task) if fault.exists() and fault.read_text() == "hang" else nullcontext():
        return work(task)


def tries(root: Path, step: int) -> list[str]:
    """Log of attempts at a checkpoint, one line each: attempt, batch tokens, cells."""
    path = root / f"step{step}" / "tries"
    return path.read_text().splitlines() if path.exists() else []


class TwoArguments(Exception):
    """Exception that pickle cannot restore."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(one)


def _raise(error: BaseException) -> None:
    raise error


DEATHS = {
    "crash": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "segv": faulthandler._sigsegv,
    "exit": lambda: sys.exit(3),
    "_exit": lambda: os._exit(7),
    "abort": os.abort,
    "term": lambda: (os.kill(os.getpid(), signal.SIGTERM), time.sleep(60)),
    "raise": lambda: _raise(RuntimeError("a worker must never raise, yet this one does")),
    "two": lambda: _raise(TwoArguments("one", "two")),
    "interrupt": lambda: _raise(KeyboardInterrupt()),
}
"""Ways for a worker to end that `run_task` does not turn into outcomes."""


def _misbehave(name: str, task: Task) -> list[Outcome]:
    if name in DEATHS:
        DEATHS[name]()
    if name == "unpicklable":
        return [threading.Lock()]  # type: ignore[list-item]
    if name == "stuck":
        with mark_in_flight(task):  # with no watchdog, or one that does not fire
            time.sleep(60)
    if name == "hang":
        time.sleep(60)
    if name in MEMORIES:
        return _out_of_memory(task, MEMORIES[name])
    if name == "sigterm":
        os.kill(os.getpid(), signal.SIGTERM)
        return [commit(task, cell) for cell in task.cells]
    if name == "halfway":
        return [commit(task, task.cells[0]), *_misbehave("crash", task)]
    if name == "mixed":
        return [
            Outcome.model_validate({"cell_id": cell.id, "error_class": error_class, "message": "MixedError: a test's"})
            for cell, error_class in zip(task.cells, ("transient", "oom"), strict=False)
        ]
    return fail_all_cells(task, name, f"{name.title()}Error: made for the test")  # type: ignore[arg-type]


def _of_host() -> None:
    bytearray(2**62)


def _of_gpu() -> None:
    """Raise torch's out-of-memory error; tests/gpu provokes the real one."""
    import torch

    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 EiB")


MEMORIES = {"memory": _of_host, "gpu_memory": _of_gpu}
"""Allocations that fail for want of memory."""


def _out_of_memory(task: Task, allocate: Callable[[], None]) -> list[Outcome]:
    """Outcomes of a worker whose allocation fails."""
    try:
        allocate()
    except Exception as error:
        return fail_all_cells(task, classify_error(error), format_error(error))
    raise AssertionError("there was room")


def commit(task: Task, cell: Cell) -> Outcome:
    lake = Lake(task.lake, task.lake_id)
    lake.commit(cell.id, cell.checkpoint.model_key, to_table(rows(cell), {"recipe": cell.recipe.label}))
    return Outcome(cell_id=cell.id, n_rows=LAYERS)


def rows(cell: Cell) -> list[dict[str, object]]:
    """Minimal rows that the schema accepts: no metric, and the flag `not_measured`."""
    checkpoint = cell.checkpoint
    return [
        {
            "cell_id": cell.id,
            "recipe": cell.recipe.label,
            "recipe_fingerprint": cell.recipe.fingerprint,
            "algorithm": algorithm_number(),
            "model": checkpoint.model,
            "kind": cell.kind,
            "revision": checkpoint.revision,
            "step": checkpoint.step,
            "weights_digest": checkpoint.weights_digest,
            "config_digest": checkpoint.config_digest,
            "tokenizer_digest": checkpoint.tokenizer_digest,
            "corpus": cell.corpus.id,
            "corpus_sha256": cell.corpus.sha256,
            "layer": layer,
            "depth": layer / (LAYERS - 1),
            "state": "block" if layer else "embedding",
            "status": "ok",
            "flags": ["not_measured"],
        }
        for layer in range(LAYERS)
    ]
