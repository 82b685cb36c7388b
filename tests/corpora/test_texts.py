"""A corpus is identified by the bytes of its unpacked text; an invalid text raises a two-line error."""

import gzip
import hashlib
import os
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.corpora import resolve_corpus, text_io
from pipeline.corpora.resolve import prepare_text_file
from pipeline.errors import CorpusError
from pipeline.spec import Corpus

TEXT = "Ελλάδα, 東京 and 😀 at the end.\n".encode() * 5000


def packed(folder: Path, kind: str, data: bytes = TEXT) -> Path:
    path = folder / f"text.{kind}"
    if kind == "gz":
        path.write_bytes(gzip.compress(data, mtime=0))
    elif kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.mkdir("folder")
            archive.writestr("folder/text", data)
    else:
        path.write_bytes(data)
    return path


def text(path: Path) -> Corpus:
    return Corpus(kind="text", path=str(path))


@pytest.mark.parametrize("kind", ["txt", "gz", "zip"])
def test_plain_gzip_and_zip_have_the_digest_and_the_bytes_of_the_text(tmp_path: Path, kind: str) -> None:
    corpus = resolve_corpus(text(packed(tmp_path, kind)))
    assert corpus.sha256 == hashlib.sha256(TEXT).hexdigest()
    assert prepare_text_file(corpus).read_bytes() == TEXT


def test_a_packed_text_is_unpacked_once_and_again_only_where_the_cache_lost_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = packed(tmp_path, "gz", TEXT + b"once")
    os.utime(path, (1e9, 1e9))
    corpus = resolve_corpus(text(path))
    cached = prepare_text_file(corpus)
    with monkeypatch.context() as patch:
        patch.setattr(text_io, "_open_decompressed", lambda path: pytest.fail("unpacked again"))
        assert resolve_corpus(text(path)) == corpus
        assert prepare_text_file(corpus) == cached
    cached.write_bytes(b"damaged")
    assert prepare_text_file(corpus).read_bytes() == TEXT + b"once"


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"plain \xff rubbish", "UTF-8 at byte 6"),
        (b"a" * (text_io.BLOCK_BYTES - 1) + "é".encode() + b"\xff", f"UTF-8 at byte {text_io.BLOCK_BYTES + 1}"),
        (gzip.compress(TEXT, mtime=0)[:-20], "a damaged gzip file"),
        (gzip.compress(TEXT, mtime=0)[:-8] + bytes(8), "a damaged gzip file"),
        (gzip.compress(b"\xc3\x28", mtime=0), "UTF-8 at byte 0"),
        (b"PK\x03\x04 rubbish", "a damaged zip file"),
        (b"PK\x05\x06" + bytes(18), "a zip with 0 members"),
    ],
)
def test_an_invalid_text_raises_with_the_finding(tmp_path: Path, data: bytes, found: str) -> None:
    (tmp_path / "corpus").write_bytes(data)
    with pytest.raises(CorpusError, match=found) as caught:
        resolve_corpus(text(tmp_path / "corpus"))
    assert len(str(caught.value).splitlines()) == 2


def test_an_absent_file_an_empty_folder_and_a_zip_of_two_texts_are_refused(tmp_path: Path) -> None:
    for path, found in ((tmp_path / "none", "No such file or directory"), (tmp_path, "no file there fits")):
        with pytest.raises(CorpusError, match=found):
            resolve_corpus(text(path))
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        archive.writestr("a", "a")
        archive.writestr("b", "b")
    with pytest.raises(CorpusError, match="a zip with 2 members"):
        resolve_corpus(text(tmp_path / "two.zip"))


def test_a_character_cut_at_the_end_of_a_file_is_no_error(tmp_path: Path) -> None:
    for cut in range(1, 4):
        path = packed(tmp_path, "txt", "ab😀".encode()[:-cut])
        assert resolve_corpus(text(path)).sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_file_that_changed_after_it_was_resolved_is_refused(tmp_path: Path) -> None:
    corpus = resolve_corpus(text(packed(tmp_path, "txt", b"before")))
    packed(tmp_path, "txt", b"after it")
    with pytest.raises(CorpusError, match=hashlib.sha256(b"after it").hexdigest()) as caught:
        prepare_text_file(corpus)
    assert str(corpus.path) in str(caught.value)
    assert "plan" in caught.value.do


def test_random_uniform_has_no_digest_and_random_unigram_that_of_its_text(tmp_path: Path) -> None:
    assert resolve_corpus(Corpus(kind="random-uniform")).sha256 is None
    path = packed(tmp_path, "gz")
    assert resolve_corpus(Corpus(kind="random-unigram", path=str(path))).sha256 == hashlib.sha256(TEXT).hexdigest()


@given(st.binary(max_size=40), st.integers(1, 8))
def test_check_utf8_agrees_with_decode_except_for_a_cut_at_the_end(data: bytes, size: int) -> None:
    stream = text_io.check_utf8((data[at : at + size] for at in range(0, len(data), size)), "x")
    try:
        data.decode()
        end = None
    except UnicodeDecodeError as error:
        end = None if error.reason == "unexpected end of data" else error.start
    if end is None:
        assert b"".join(stream) == data
    else:
        with pytest.raises(CorpusError, match=f"at byte {end}\\."):
            list(stream)
