"""Tokenizer: special tokens only on request, ends of tokens in characters, ids of text tokens."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import CheckpointError
from pipeline.model import Tokenizer, load_tokenizer

WIKI = "histories/wiki-neox/step0"
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "hello", "world", "na", "##ive", "[", "]", "cls", "."]


@pytest.fixture
def wiki(shared: Callable[[str], Path]) -> Tokenizer:
    return load_tokenizer(shared(WIKI))


@pytest.fixture
def wordpiece(tmp_path: Path) -> Tokenizer:
    """Lower-casing word-piece tokenizer as in BERT, with an added word besides its special tokens."""
    from tokenizers import BertWordPieceTokenizer

    (tmp_path / "vocab.txt").write_text("\n".join(WORDS))
    made = BertWordPieceTokenizer(str(tmp_path / "vocab.txt"))
    made.add_tokens(["shapelake"])
    made.save(str(tmp_path / "tokenizer.json"))
    special = {name: f"[{name[:-6].upper()}]" for name in ("pad_token", "unk_token", "cls_token", "sep_token")}
    fields = {"tokenizer_class": "BertTokenizer", "mask_token": "[MASK]", **special}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(fields))
    return load_tokenizer(tmp_path)


def test_ids_decode_to_the_text(wiki: Tokenizer, shared: Callable[[str], Path]) -> None:
    """A byte-level tokenizer reproduces a Wikipedia page and has `round_trips` set."""
    text = shared("data/enwik5").read_bytes()[:20000].decode("utf-8", "ignore")
    assert wiki.decode(wiki.encode(text)) == text
    assert wiki.round_trips


def test_ends_cut_the_text_at_tokens(wiki: Tokenizer) -> None:
    """The first n tokens decode to the text up to the n-th end, also if a character needs several tokens."""
    text = "Plain text, 東京 and naïve words.\n\nNext"
    ids, ends = wiki.encode_with_offsets(text)
    assert ends is not None
    assert ids == wiki.encode(text)
    assert ends[-1] == len(text)
    assert ends == sorted(ends)
    whole = [n for n in range(1, len(ends)) if ends[n] > ends[n - 1]]  # no character continues after token n
    assert len(whole) > 10
    for n in whole:
        assert wiki.decode(ids[:n]) == text[: ends[n - 1]]


def test_no_special_token_from_a_text(wiki: Tokenizer, wordpiece: Tokenizer) -> None:
    """A special token spelled in a text is plain text, except in `encode_with_special_tokens`."""
    assert set(wiki.encode("a <|endoftext|> [MASK]")).isdisjoint({0, 1, 2})
    assert {0, 1} < set(wiki.encode_with_special_tokens("a <|endoftext|> [MASK]")[0])
    assert wordpiece.encode("hello [CLS].") == [WORDS.index(word) for word in ("hello", "[", "cls", "]", ".")]
    ids, _ = wordpiece.encode_with_offsets("hello [CLS].")
    assert ids == wordpiece.encode("hello [CLS].")


def test_the_default_adds_what_the_tokenizer_adds(wiki: Tokenizer, wordpiece: Tokenizer) -> None:
    """BERT adds [CLS] and [SEP], which the mask marks; a tokenizer without defaults adds nothing."""
    assert wordpiece.encode_with_special_tokens("hello world") == ([2, 5, 6, 3], [True, False, False, True])
    assert wordpiece.encode("hello world") == [5, 6]
    ids = wiki.encode("hello")
    assert wiki.encode_with_special_tokens("hello") == (ids, [False] * len(ids))


def test_a_special_token_that_a_text_spells_is_not_an_added_one(wiki: Tokenizer, wordpiece: Tokenizer) -> None:
    assert wordpiece.encode_with_special_tokens("hello [MASK]") == ([2, 5, 4, 3], [True, False, False, True])
    assert not any(wiki.encode_with_special_tokens("a <|endoftext|> [MASK]")[1])


def test_what_opens_a_text(wiki: Tokenizer, wordpiece: Tokenizer) -> None:
    """The class token replaces a missing beginning-of-sequence token; None without either."""
    assert (wordpiece.bos_id, wordpiece.mask_id) == (2, 4)
    assert (wiki.bos_id, wiki.mask_id) == (None, 1)


def test_loss_of_text_is_seen(wordpiece: Tokenizer) -> None:
    """Lower-casing and unknown characters break the round trip."""
    assert not wordpiece.round_trips


def test_plain_ids(wiki: Tokenizer, wordpiece: Tokenizer) -> None:
    """Text ids exclude special and added tokens and ids beyond the vocabulary of the model or the tokenizer."""
    plain = wordpiece.text_token_ids(1000)
    assert plain.dtype == np.int64
    assert plain.tolist() == [WORDS.index(word) for word in WORDS[5:]]
    assert len(wordpiece) == len(WORDS) + 1
    assert wordpiece.text_token_ids(8).tolist() == [5, 6, 7]
    assert wiki.text_token_ids(1024).tolist() == list(range(3, 1024))
    assert wiki.text_token_ids(5000).tolist() == list(range(3, 1024))


def test_ids_that_decode_to_nothing_are_left_out(shared: Callable[[str], Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(shared(WIKI), tmp_path / "tokenizer"))
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    content["model"]["vocab"][""] = 1024
    path.write_text(json.dumps(content))
    tokenizer = load_tokenizer(folder)
    assert len(tokenizer) == 1025
    assert tokenizer.text_token_ids(2000).tolist() == list(range(3, 1024))


def test_no_tokenizer(tmp_path: Path) -> None:
    """A folder without tokenizer files and a corrupt tokenizer file raise CheckpointError with the path."""
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(CheckpointError, match="no tokenizer files"):
        load_tokenizer(tmp_path)
    for corrupt in ('{"version": "1.0", "model"', '{"version": "1.0", "model": {"type": "New"}}'):
        (tmp_path / "tokenizer.json").write_text(corrupt)
        with pytest.raises(CheckpointError, match="cannot be read") as caught:
            load_tokenizer(tmp_path)
        assert str(tmp_path) in str(caught.value)
