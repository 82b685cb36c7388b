"""Untrusted sweep files: each gives a sweep or a ShapelakeError, within bounded memory."""

import json

import pytest
import yaml
from hypothesis import strategies as st

from pipeline.errors import ShapelakeError
from pipeline.spec import Sweep
from pipeline.sweep.config import apply_overrides, load_sweep
from tests.security.fuzz import COUNTS, forget_peak, holds_for_all, hostile_names, peak_bytes

SOUND = {
    "name": "t",
    "checkpoints": [{"local": "runs"}, {"hub": "a/b"}, {"family": "pythia"}],
    "corpora": [{"text": "a.txt"}, {"random-uniform": {}}, "enwik8"],
    "recipe": "quick@1",
    "resources": {"cpus": 1},
    "steps": "all",
    "models": "*",
}
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), hostile_names)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(hostile_names, inner, max_size=4)
)
TOKENS = [
    "{",
    "}",
    "[",
    "]",
    ":",
    "- ",
    "? ",
    "&a ",
    "*a",
    "!!",
    "!!python/object/apply:os.system ",
    "|",
    ">",
    "'",
    '"',
]
TEXTS = st.lists(
    st.sampled_from([*TOKENS, "\n", "  ", "#", "<<: ", "!!int ", "!!timestamp ", "name", "1e999"]) | hostile_names
)
BOMB = "\n".join(["a0: &a0 [x, x]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12))])


def loaded(text: bytes, folder) -> Sweep | None:
    path = folder / "sweep.yaml"
    path.write_bytes(text)
    try:
        return load_sweep(str(path))
    except ShapelakeError:
        return None


@pytest.mark.parametrize("count", COUNTS)
def test_any_text_is_a_sweep_or_refused(count, tmp_path):
    def holds(parts: list[str]) -> None:
        loaded("".join(parts).encode(errors="surrogatepass"), tmp_path)

    holds_for_all(count, TEXTS, holds)


@pytest.mark.parametrize("count", COUNTS)
def test_a_sound_sweep_with_a_wrong_field_is_a_sweep_or_refused(count, tmp_path):
    def holds(drawn: tuple[str, object]) -> None:
        field, value = drawn
        loaded(json.dumps(SOUND | {field: value}).encode(), tmp_path)

    holds_for_all(count, st.tuples(st.sampled_from(sorted(SOUND)) | hostile_names, VALUES), holds)


@pytest.mark.parametrize("count", COUNTS)
def test_any_override_is_taken_or_refused(count):
    sound = Sweep.model_validate(SOUND)

    def holds(text: str) -> None:
        try:
            apply_overrides(sound, [text])
        except ShapelakeError:
            return

    keys = st.sampled_from(["resources.cpus=", "recipe=", "name=", "corpora=", "a.b.c=", ""])
    holds_for_all(count, st.tuples(keys, hostile_names | TEXTS.map("".join)).map("".join), holds)


@pytest.mark.parametrize(
    "text",
    [BOMB, f"{BOMB}\ncheckpoints: [*a11]", "&a [*a]", "[" * 20_000, "{a: " * 10_000, "name: " + "9" * 10_000],
    ids=["bomb", "bomb in a field", "loop", "deep lists", "deep maps", "digits"],
)
def test_text_that_stands_for_more_than_it_is_takes_no_memory(text, tmp_path):
    before = forget_peak()
    assert loaded(text.encode(), tmp_path) is None
    assert peak_bytes() - before < 200e6


def test_a_sweep_that_is_sound_is_read(tmp_path):
    assert loaded(yaml.safe_dump(SOUND).encode(), tmp_path) is not None
