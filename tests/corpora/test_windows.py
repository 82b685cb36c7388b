"""Windows are complete, disjoint and spread over the whole text, and only their bytes are tokenised."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.corpora.windows import ContextLayout, memmap_text, read_window_ids, read_windows
from pipeline.errors import CorpusError
from tests.support.fake_tokenizers import Characters, Words

MULTIBYTE = st.text(st.sampled_from("aé漢😀 \n"), max_size=400)


def shape(contexts: int, tokens: int, groups: int = 1, seed: int = 0, allow_smaller: bool = False) -> ContextLayout:
    return ContextLayout(contexts, tokens, groups, seed, allow_smaller)


def as_bytes(text: str | bytes) -> np.ndarray:
    return np.frombuffer(text if isinstance(text, bytes) else text.encode(), np.uint8)


def prose(n_bytes: int) -> np.ndarray:
    """Return random words of about five letters, separated by spaces."""
    letters = np.random.default_rng(0).integers(97, 123, n_bytes).astype(np.uint8)
    letters[np.random.default_rng(1).random(n_bytes) < 0.18] = 32
    return letters


@given(MULTIBYTE, st.integers(1, 6), st.integers(1, 12), st.integers(0, 9), st.booleans())
def test_every_window_is_exactly_its_bytes_and_none_overlap(
    text: str, n: int, tokens: int, seed: int, offsets: bool
) -> None:
    data = as_bytes(text)
    found = read_windows(data, Characters(offsets), shape(n, tokens, seed=seed))
    for window in found:
        between = data[window.start : window.end].tobytes().decode()
        assert "".join(map(chr, window.ids)) == (between if offsets else between[:tokens])
    assert all(a.end <= b.start for a, b in pairwise(found))


@given(MULTIBYTE, st.integers(1, 6), st.integers(1, 12), st.integers(0, 9))
def test_all_windows_are_found_exactly_where_the_text_has_as_many_tokens(
    text: str, n: int, tokens: int, seed: int
) -> None:
    if len(text) >= n * tokens:
        assert read_window_ids(as_bytes(text), Characters(), shape(n, tokens, seed=seed), "x").shape == (n, tokens)
    else:
        with pytest.raises(CorpusError, match=rf"{n * tokens} tokens .* {len(text)} "):
            read_window_ids(as_bytes(text), Characters(), shape(n, tokens, seed=seed), "x")


@given(MULTIBYTE.filter(bool), st.integers(0, 3))
def test_a_character_cut_at_the_end_of_a_file_is_dropped(
    tmp_path_factory: pytest.TempPathFactory, text: str, cut: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "cut"
    path.write_bytes(text.encode()[: -cut or None])
    assert memmap_text(path).tobytes() == path.read_bytes().decode(errors="ignore").encode()


def test_one_window_begins_in_each_equal_share_of_the_text() -> None:
    data = prose(1_000_000)
    starts = [w.start for w in read_windows(data, Words(), shape(200, 32))]
    assert [start // 5000 for start in starts] == list(range(200))
    offsets = np.array(starts) % 5000 / 5000  # uniform in [0, 1): mean 1/2 with standard error 0.020, sd 0.289
    assert abs(offsets.mean() - 0.5) < 0.08
    assert offsets.std() == pytest.approx(0.289, abs=0.04)


def test_where_reading_stops_does_not_show_in_the_tokens() -> None:
    data = prose(300_000)
    for window in read_windows(data, Words(), shape(500, 32)):
        further = data[window.start : window.end + 100].tobytes().decode()
        assert window.ids == Words().encode(further)[:32]


def test_another_seed_takes_other_windows_and_the_same_one_the_same() -> None:
    data = prose(100_000)
    first, again, other = (read_windows(data, Words(), shape(20, 32, seed=seed)) for seed in (0, 0, 1))
    assert first == again
    assert {w.start for w in first}.isdisjoint(w.start for w in other)


def test_only_the_windows_are_tokenised() -> None:
    data, tokenizer = prose(10_000_000), Words()
    found = read_windows(data, tokenizer, shape(100, 64))
    taken = sum(w.end - w.start for w in found)
    # A read is 1.25 times the preceding window's bytes per token; the first window is read twice.
    assert sum(map(len, tokenizer.asked)) < 1.6 * taken
    assert taken < 0.005 * len(data)


def test_a_tight_text_is_still_used_from_head_to_end() -> None:
    data = prose(100_000)
    available = len(Words().encode(data.tobytes().decode()))
    n = available // 32 * 9 // 10  # nine tenths of the text are needed
    found = read_windows(data, Words(), shape(n, 32))
    assert len(found) == n
    assert all(len(w.ids) == 32 for w in found)
    assert found[-1].end > 0.94 * len(data)


def test_a_small_corpus_gives_equal_groups_where_that_is_allowed_and_both_numbers_otherwise() -> None:
    text = as_bytes("x" * 10)
    with pytest.raises(CorpusError, match=r"32768 tokens .* 10 "):
        read_window_ids(text, Characters(), shape(256, 128, 4), "x")
    assert read_window_ids(text, Characters(), shape(8, 2, 4, allow_smaller=True), "x").shape == (4, 2)
    assert read_window_ids(text, Characters(), shape(8, 2, 2, allow_smaller=True), "x").shape == (4, 2)
    with pytest.raises(CorpusError, match=r"64 tokens .* 10 "):
        read_window_ids(text, Characters(), shape(8, 8, 4, allow_smaller=True), "x")
    with pytest.raises(CorpusError, match=r"16 tokens .* 0 "):
        read_window_ids(as_bytes(""), Characters(), shape(8, 2), "x")
