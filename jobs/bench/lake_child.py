"""One command on a lake in a process of its own, without torch, so that its peak memory is that of the command.

`python -m jobs.bench.lake_child STEP LAKE STUBS` runs the command that is named STEP in STEPS or PLANS, and prints its
CPU seconds and the peak MB of the process as JSON.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

from pipeline.lake import Lake, lake_status, open_lake, snapshot
from pipeline.lake.verify import verify_lake
from pipeline.spec import Corpus, Local, Sweep, built_in_recipe
from pipeline.sweep.plan import Plan, make_plan

FIRST, AGAIN, VERIFY = "first compact", "compact after new cells", "verify"
COLD_PLAN, WARM_PLAN = "first plan of local checkpoints", "plan of local checkpoints"
MODEL = "lab/model-0007"
"""Model of the stub checkpoints."""


def stub_sweep(stubs: str | Path, recipe: str) -> Sweep:
    """Return the sweep over the stub checkpoints, as checkpoints of MODEL."""
    sources, corpora = (Local(local=str(stubs), model=MODEL),), (Corpus(kind="random-uniform"),)
    return Sweep(name="bench", checkpoints=sources, corpora=corpora, recipe=built_in_recipe(recipe))


def _plan(uri: str, stubs: str) -> Plan:
    return make_plan(stub_sweep(stubs, "quick@1"), Lake(uri))


def _plan_finished(uri: str, stubs: str) -> None:
    assert not _plan(uri, stubs).todo


def _verify(uri: str, _: str) -> None:
    problems = verify_lake(Lake(uri))
    assert not problems, problems[:3]


STEPS: dict[str, Callable[[str, str], object]] = {
    FIRST: lambda uri, _: snapshot.compact(Lake(uri)),
    AGAIN: lambda uri, _: snapshot.compact(Lake(uri)),
    "count query": lambda uri, _: open_lake(uri).query_frame("SELECT count(*) FROM layers"),
    "opening": lambda uri, _: open_lake(uri),
    "status": lambda uri, _: lake_status(Lake(uri)),
    "plan of a finished sweep": _plan_finished,
    VERIFY: _verify,
}
"""Commands by name; each takes the lake's URI and the folder of the stub checkpoints, whose cells are in the lake."""
PLANS: dict[str, Callable[[str, str], object]] = {COLD_PLAN: _plan, WARM_PLAN: _plan}
"""Plans over checkpoints that the lake lacks, by name: one computes their checksums, the other finds them cached."""


def _peak_mb() -> float:
    """Return the peak resident memory of this process in MB.

    getrusage is not used, since it would include the memory of the parent before the exec.
    """
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1e3


def main(step: str, uri: str, stubs: str) -> None:
    start = time.process_time()
    (STEPS | PLANS)[step](uri, stubs)
    print(json.dumps([time.process_time() - start, _peak_mb()]))


if __name__ == "__main__":
    main(*sys.argv[1:])
