"""Snippets equal slices of the decoded text, without decoding the whole text."""

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline.corpora import build_contexts, resolve_corpus
from pipeline.corpora.snippets import BLOCK, Snippet, read_snippets
from pipeline.errors import CorpusError
from pipeline.recipe import SnippetRecipe, built_in_recipe
from pipeline.spec import Corpus
from tests.support.fake_tokenizers import Characters, Words

TEXT = "".join(np.random.default_rng(0).choice(list("aé漢😀 "), 100_000).tolist())
DATA = np.frombuffer(TEXT.encode(), np.uint8)


def recipe(**fields: object) -> SnippetRecipe:
    return SnippetRecipe.model_validate({"name": "s", "version": 1, "snippets": 128, **fields})


def texts(found: list[Snippet]) -> list[str]:
    return ["".join(map(chr, snippet.ids)) for snippet in found]


def test_sequential_snippets_are_slices_of_the_decoded_text() -> None:
    assert len(DATA) > 3 * BLOCK
    assert texts(read_snippets(DATA, recipe(), Characters(), "x")) == [
        TEXT[512 * i : 512 * (i + 1)] for i in range(128)
    ]


def test_seeded_snippets_are_drawn_as_python_draws_them() -> None:
    drawn = random.Random(0).sample(range(len(TEXT) // 512), 128)
    found = texts(read_snippets(DATA, recipe(order="seeded"), Characters(), "x"))
    assert found == [TEXT[512 * i : 512 * (i + 1)] for i in drawn]


def test_tokens_are_cut_and_special_tokens_count() -> None:
    first = [ord(c) for c in TEXT[:512]]
    for fields, wanted, special in (
        ({"max_tokens": 100}, first[:100], []),
        ({"max_tokens": 100, "bos": "first"}, [1, *first[:99]], [0]),
        ({"max_tokens": 100, "bos": "tokenizer"}, [1, *first[:99]], [0]),
        ({"bos": "tokenizer"}, [1, *first, 2], [0, 513]),
    ):
        found = read_snippets(DATA, recipe(**fields), Characters(), "x")[0]
        assert found.ids.tolist() == wanted
        assert np.flatnonzero(found.special_mask).tolist() == special
        assert len(found.special_mask) == len(found.ids)


def test_the_last_snippet_may_end_with_the_text_and_one_more_character_is_too_many() -> None:
    fitting = np.frombuffer(TEXT[: 512 * 128].encode(), np.uint8)
    assert texts(read_snippets(fitting, recipe(), Characters(), "x"))[-1] == TEXT[512 * 127 : 512 * 128]
    with pytest.raises(CorpusError, match=r"65536 .* 65535"):
        read_snippets(np.frombuffer(TEXT[: 512 * 128 - 1].encode(), np.uint8), recipe(), Characters(), "x")
    with pytest.raises(CorpusError, match=r"65536 .* 0 "):
        read_snippets(np.zeros(0, np.uint8), recipe(), Characters(), "x")


def test_a_snippet_without_a_token_is_an_error() -> None:
    class NoBlanks(Words):
        def encode(self, text: str) -> list[int]:
            return super().encode(text.strip())

    with pytest.raises(CorpusError, match=f"no token in '{' ' * 20}'"):
        read_snippets(np.full(512, 32, np.uint8), recipe(snippets=1), NoBlanks(), "x")


def test_only_the_snippets_are_tokenised() -> None:
    tokenizer = Characters()
    read_snippets(DATA, recipe(order="seeded"), tokenizer, "x")
    assert sum(map(len, tokenizer.asked)) == 128 * 512


def test_the_oracles_snippets_are_those_of_the_whole_file(shared: Callable[[str], Path]) -> None:
    from transformers import AutoTokenizer

    from pipeline.model.tokenizer import load_tokenizer

    folder, file = shared("histories/wiki-neox/step0"), shared("data/enwik5")
    oracle = recipe(order="sequential", max_tokens=128)
    corpus = resolve_corpus(Corpus(kind="enwik8-raw", path=str(file)))
    found = build_contexts(corpus, oracle, load_tokenizer(folder), 1024, 128)
    text, tokenizer = file.read_bytes().decode(), AutoTokenizer.from_pretrained(folder)
    for i, ids in enumerate(found.ids):
        whole = tokenizer(text[512 * i : 512 * (i + 1)], add_special_tokens=False)["input_ids"]
        assert ids.tolist() == whole[:128]
    assert len(found) == 128
    assert found.n_groups == 1
    assert all(
        np.array_equal(kept, np.arange(len(ids))) for kept, ids in zip(found.kept_positions, found.ids, strict=True)
    )
    assert found.n_kept == sum(found.moment_rows_per_group) == found.n_tokens
    assert found.n_error_groups == 5


def test_the_authors_protocol_needs_a_text_of_65536_characters(shared: Callable[[str], Path]) -> None:
    corpus = resolve_corpus(Corpus(kind="enwik8-raw", path=str(shared("data/enwik5"))))
    found = build_contexts(corpus, built_in_recipe("authors@1"), Characters(), 1 << 21, None)
    assert {len(ids) for ids in found.ids} == {514}
    assert len({ids.tobytes() for ids in found.ids}) == 128
