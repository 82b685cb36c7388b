"""Untrusted checkpoint files: read or refused with a CheckpointError; never executed, within bounded memory."""

import json
import pickle
import struct
from pathlib import Path

import pytest
from hypothesis import strategies as st

from pipeline.catalog.local_histories import discover_history
from pipeline.errors import CheckpointError
from pipeline.model.weight_files import list_readable_weights, read_config
from pipeline.spec import Local
from tests.security.fuzz import COUNTS, forget_peak, holds_for_all, hostile_names, peak_bytes
from tests.support import stub_checkpoints as stub

HUGE = 2**62
SIZES = st.sampled_from([0, 1, 7, 2**16, 2**31, 2**40, HUGE, -1])
TENSOR = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from(["F32", "BF16", "I64", "F33", "", None]),
        "shape": st.lists(SIZES, max_size=4),
        "data_offsets": st.lists(SIZES, max_size=3),
    },
)
HEADERS = st.dictionaries(hostile_names, TENSOR | st.none() | st.integers(), max_size=4)
LENGTHS = st.sampled_from([None, 0, 1, 8, 2**24, 2**32, 2**63, 2**64 - 1])
NOISE = st.binary(max_size=64)


def folder(tmp_path: Path) -> Path:
    return stub.history(tmp_path / "runs", [0]) / "step0"


def refused_or_read(root: Path) -> None:
    """Do what loading does with the files before it builds a model, and what planning does."""
    before = forget_peak()
    try:
        read_config(root)
        list_readable_weights(root)
    except CheckpointError:
        pass  # refused with a proper error
    assert discover_history(Local(local=str(root.parent))).revisions
    assert peak_bytes() - before < 200e6


@pytest.mark.parametrize("count", COUNTS)
def test_any_safetensors_header(count, tmp_path):
    root = folder(tmp_path)

    def holds(drawn: tuple[dict, int | None, bytes]) -> None:
        header, length, body = drawn
        text = json.dumps(header).encode()
        stated = len(text) if length is None else length
        (root / "model.safetensors").write_bytes(struct.pack("<Q", stated) + text + body)
        refused_or_read(root)

    holds_for_all(count, st.tuples(HEADERS, LENGTHS, NOISE), holds)


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize(
    "name", ["model.safetensors", "pytorch_model.bin", "config.json", "model.safetensors.index.json"]
)
def test_any_bytes(count, name, tmp_path):
    root = folder(tmp_path)
    if name != "config.json":
        (root / "model.safetensors").unlink()
    starts = st.sampled_from([b"", b"{", b"[" * 5000, b"PK\x03\x04", b"\x80\x02", b'{"weight_map": {"a": "../../x"}}'])

    def holds(drawn: tuple[bytes, bytes]) -> None:
        (root / name).write_bytes(b"".join(drawn))
        refused_or_read(root)

    holds_for_all(count, st.tuples(starts, NOISE), holds)


def test_an_index_cannot_lead_out_of_its_folder(tmp_path):
    root = folder(tmp_path)
    (tmp_path / "outside.safetensors").write_bytes((root / "model.safetensors").read_bytes())
    (root / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": {"a": "../../outside.safetensors"}}
    (root / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="no shard is named"):
        list_readable_weights(root)


class Runs:
    """Object whose pickle creates a file when it is loaded."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self):
        return Path.touch, (self.proof,)


def test_a_pickle_that_is_more_than_tensors_is_refused_and_not_run(tmp_path):
    root = folder(tmp_path)
    (root / "model.safetensors").unlink()
    proof = tmp_path / "it ran"
    (root / "pytorch_model.bin").write_bytes(pickle.dumps({"weight": Runs(proof)}))
    with pytest.raises(CheckpointError, match="cannot be opened"):
        list_readable_weights(root)
    assert not proof.exists()
