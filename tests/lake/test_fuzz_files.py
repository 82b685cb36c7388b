"""Damage of every kind of file of a lake: no crash, no hang, no wrong number, and `verify` reports it."""

import json
import os
import random

import pytest

from pipeline.lake.scan import find_damage
from tests.support import damaged_lakes
from tests.support.damaged_lakes import ALWAYS_FOUND, KINDS, MUTATIONS, WITH_DIGEST, Ground

KINDS_OF_UPKEEP = {"cell", "label", "v1 label", "pointer", "manifest"} | {kind for kind in KINDS if "snapshot" in kind}
"""Kinds that `compact` and `gc` read."""
MANY = int(os.environ.get("FUZZ_CASES", "2000"))


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    return Ground(tmp_path_factory.mktemp("ground"))


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("cases", [9, pytest.param(MANY, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_is_reported_and_changes_no_other_number(ground, kind, cases):
    others = [data for other, data in ground.contents.items() if other != kind]
    for case in range(cases):
        rng = random.Random(f"{kind} {case}")
        name = [*MUTATIONS][case % len(MUTATIONS)]
        lake = ground.copy()
        key = damaged_lakes.key_of_kind(ground.sound, kind)
        damaged = MUTATIONS[name](ground.contents[kind], others, rng)
        lake.store.path(key).write_bytes(damaged)
        try:
            problems = ground.check(lake, key, kind, is_upkeep=kind in KINDS_OF_UPKEEP or case < len(MUTATIONS))
        except Exception as error:
            raise AssertionError(f"case {case} of {kind}: {name}: {damaged[:300]!r}") from error
        if is_detectable(kind, name, damaged, ground.contents[kind]):
            found = {problem.key for problem in problems}
            is_found = key in found or (kind == "pointer" and any(name.endswith("/manifest.json") for name in found))
            assert is_found, (case, name, damaged[:300])


def is_detectable(kind, mutation, damaged, sound):
    if damaged == sound or has_equal_content(damaged, sound):
        return False
    if kind == "cell":
        return find_damage(damaged) is not None
    return kind in WITH_DIGEST or (mutation in ALWAYS_FOUND and kind != "plan") or mutation in ("empty", "deep")


def has_equal_content(damaged, sound):
    """True for JSON of equal values: checksums are over the canonical form."""
    try:
        return json.dumps(json.loads(damaged)) == json.dumps(json.loads(sound))
    except (ValueError, RecursionError):
        return False
