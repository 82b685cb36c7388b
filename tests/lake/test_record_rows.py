"""Checks of similarity record files: each defect is described, by `verify` and by readers, and none stops them."""

import numpy as np
import pytest
import torch

from pipeline.geometry import record_layer
from pipeline.lake.layout import similarity_key
from pipeline.lake.similarity_files import decode_rows, encode_records, find_record_file_problem
from pipeline.similarity.settings import Similarity
from tests.support import recorded_clouds as made

N, K, RANK = 64, 16, 32
ABOUT = {"cell_id": "a" * 32, "model": "m", "revision": "r", "step": 1, "tokens_digest": "x", "corpus": "t"}


@pytest.fixture(scope="module")
def rows():
    random = np.random.default_rng(0)
    return made.record_rows([random.standard_normal((N, 24)) for _ in range(2)], ABOUT)


def problem(rows, size: str = f"t{N}-r{RANK}-k{K}") -> str | None:
    return find_record_file_problem(similarity_key("m", "a" * 32, size), encode_records(rows, {}))


def test_sound_files_have_no_problem(rows):
    assert problem(rows) is None
    bare = dict.fromkeys(("neighbours", "vectors", "values", "diagonal", "trace", "tail", "sum_of_squares"))
    assert problem([rows[0], rows[1] | bare | {"status": "no_geometry"}]) is None
    assert problem(rows, "t999-r32-k16") is None, "contexts may have fewer tokens than asked for"


EMPTY = {"token_ids": np.zeros(0, np.int32), "token_groups": np.zeros(0, np.int16), "sinks": np.zeros(0, bool)}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (EMPTY, "no compared tokens"),
        ({"token_ids": None}, "token_ids is null"),
        ({"sinks": None}, "sinks is null"),
        ({"token_groups": np.full(N, -5, np.int16)}, "a group is negative"),
        ({"token_groups": np.zeros(7, np.int16)}, "differ in their number of tokens"),
        ({"values": None}, "null or empty"),
        ({"values": np.full(RANK, np.nan)}, "not finite"),
        ({"vectors": np.full((N, RANK), np.nan, np.float16)}, "not finite"),
        ({"vectors": np.zeros(9, np.float16)}, "do not match its number of tokens"),
        ({"diagonal": np.zeros(3, np.float32)}, "do not match its number of tokens"),
        ({"trace": None}, "not finite"),
        ({"sum_of_squares": np.inf}, "not finite"),
        ({"neighbours": np.zeros((N, K), np.int16)}, "not another compared token"),
        ({"neighbours": np.full((N, K), N, np.int16)}, "not another compared token"),
        ({"ranks": np.zeros(7, np.int16)}, "ranks do not match"),
        ({"ranks": np.full(N * N, -1, np.int16)}, "ranks do not match"),
        ({"status": "fine"}, "status = 'fine'"),
    ],
)
def test_a_defect_is_described_and_readers_refuse_the_file(rows, changes, says):
    found = [row | changes for row in rows]
    assert says in (problem(found) or "")
    with pytest.raises(ValueError, match=says):
        decode_rows(encode_records(found, {}))


@pytest.mark.parametrize("name", ["token_ids", "sinks"])
def test_lists_of_tokens_are_equal_in_all_layers(rows, name):
    other = np.ones(N, bool) if name == "sinks" else np.zeros(N, np.int32)
    assert problem([rows[0], rows[1] | {name: other}]) == f"{name} differs between layers"


@pytest.mark.parametrize("size", ["t63-r32-k16", "t64-r32-k9", "t64-r9-k16", "t64-r32-k16-ranks", "t9999-r9-k9-ranks"])
def test_the_content_has_the_size_of_the_name(rows, size):
    assert "of its name" in (problem(rows, size) or "")


def test_two_tokens_have_no_record():
    """U-centring divides by the number of tokens minus 2."""
    points = torch.from_numpy(np.random.default_rng(0).standard_normal((3, 8)))
    assert record_layer(points[:2], Similarity()) is None
    found = record_layer(points, Similarity())
    assert found is not None
    assert np.isfinite(found.tail)


def test_ranks_are_read_only_if_asked_for(rows):
    ranked = [row | {"ranks": np.zeros((N, N), np.int16)} for row in rows]
    data = encode_records(ranked, {})
    assert [row["ranks"] for row in decode_rows(data, ranks=False)] == [None, None]
    assert [len(row["ranks"]) for row in decode_rows(data)] == [N * N] * 2
