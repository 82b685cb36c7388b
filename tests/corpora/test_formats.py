"""Corpora as people have them: records, packed files, folders, patterns, byte order marks; files that are no text."""

import bz2
import gzip
import hashlib
import json
import lzma
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from pipeline.corpora.resolve import prepare_text_file, resolve_corpus
from pipeline.errors import CorpusError
from pipeline.spec import Corpus

BOM = b"\xef\xbb\xbf"
DOCUMENTS = ["First, naïve.\nTwo lines.", "", "東京 and 😀.", 'A "quoted" end.']
JOINED = "\n\n".join(DOCUMENTS).encode()


def json_lines(documents: list[str], field: str = "text") -> bytes:
    return b"".join(json.dumps({"id": i, field: text}).encode() + b"\n" for i, text in enumerate(documents))


def zstd(data: bytes) -> bytes:
    """Two frames, as `cat a.zst b.zst` makes them."""
    codec, half = pa.Codec("zstd"), len(data) // 2
    return b"".join(codec.compress(part, asbytes=True) for part in (data[:half], data[half:]))


PACK: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".bz2": bz2.compress,
    ".zst": zstd,
}


def write_parquet(path: Path, documents: list[str], column: str = "text") -> Path:
    pq.write_table(pa.table({"id": range(len(documents)), column: documents}), path, row_group_size=2)
    return path


def read(corpus: Corpus) -> bytes:
    """Return the text that is tokenised, after a check of its checksum."""
    resolved = resolve_corpus(corpus)
    text = prepare_text_file(resolved).read_bytes()
    assert hashlib.sha256(text).hexdigest() == resolved.sha256
    return text


@pytest.mark.parametrize("suffix", PACK)
def test_a_packed_text_is_that_text(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"book.txt{suffix}"
    path.write_bytes(PACK[suffix](JOINED))
    assert read(Corpus.model_validate(f"text:{path}")) == JOINED


@pytest.mark.parametrize("suffix", PACK)
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_json_lines_are_the_field_of_every_line(end: bytes, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"wiki.jsonl{suffix}"
    path.write_bytes(PACK[suffix](json_lines(DOCUMENTS).replace(b"\n", end) + b"\n"))
    corpus = Corpus.model_validate({"jsonl": str(path), "field": "text"})
    assert corpus.id == "jsonl:wiki"
    assert read(corpus) == JOINED
    assert read(Corpus.model_validate(f"jsonl:{path}")) == JOINED


def test_fields_by_name_nested_and_on_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "wiki.jsonl"
    lines = [{"meta": {"body": text}, "a.b": f"{i}", "text": "no"} for i, text in enumerate(DOCUMENTS)]
    path.write_text("\n".join(map(json.dumps, lines)))
    assert read(Corpus.model_validate(f"jsonl:{path}#meta.body")) == JOINED
    assert read(Corpus.model_validate({"jsonl": str(path), "field": "a.b"})) == b"0\n\n1\n\n2\n\n3"
    unigram = Corpus.model_validate({"random-unigram": str(path), "field": "meta.body"})
    assert (unigram.id, read(unigram)) == ("random-unigram", JOINED)


def test_parquet_columns(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "shard.parquet", DOCUMENTS, "content")
    for corpus in ({"parquet": str(path), "field": "content"}, {"jsonl": str(path), "field": "content"}):
        assert read(Corpus.model_validate(corpus)) == JOINED
    assert Corpus.model_validate(f"parquet:{path}#content").id == "parquet:shard"


def test_a_folder_and_a_pattern_are_their_files_in_the_order_of_their_paths(tmp_path: Path) -> None:
    root = tmp_path / "shards"
    (root / "b").mkdir(parents=True)
    (root / "b" / "1.jsonl.gz").write_bytes(gzip.compress(json_lines(DOCUMENTS[2:])))
    (root / "a.jsonl").write_bytes(json_lines(DOCUMENTS[:2]))
    (root / "dataset_info.json").write_text("{}")
    (root / ".cache.jsonl").write_text("hidden")
    assert read(folder := Corpus.model_validate({"jsonl": str(root)})) == JOINED
    pattern = Corpus.model_validate(f"jsonl:{root}/**/*.jsonl*")
    assert read(pattern) == JOINED
    assert (folder.id, pattern.id, pattern.visible_path) == ("jsonl:shards", "jsonl:shards", str(root))
    write_parquet(root / "b" / "2.parquet", ["last"])
    assert read(folder) == JOINED + b"\n\nlast"


def test_texts_of_a_folder_are_joined_by_a_blank_line(tmp_path: Path) -> None:
    (tmp_path / "2.txt").write_bytes(BOM + b"two\n")
    (tmp_path / "1.txt.gz").write_bytes(gzip.compress(b"one"))
    (tmp_path / "README.md").write_text("not a text of the corpus")
    assert read(Corpus.model_validate({"text": str(tmp_path)})) == b"one\n\ntwo\n"


@pytest.mark.parametrize("name", ["wiki [v1].jsonl", "wiki*.jsonl", "what?.jsonl", "a#b.jsonl", "'q' \"=\".jsonl"])
def test_a_file_that_exists_is_no_pattern(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(json_lines(DOCUMENTS))
    (tmp_path / "wikiv.jsonl").write_bytes(json_lines(["other"]))
    path = str(tmp_path / name)
    for corpus in (Corpus.model_validate({"jsonl": path}), Corpus.model_validate(f"jsonl:{path}")):
        assert read(corpus) == JOINED
        assert Corpus.model_validate(corpus.source) == corpus.model_copy(update={"field": "text"})
        assert corpus.visible_path == path


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    plain, marked = tmp_path / "plain.txt", tmp_path / "marked.txt"
    plain.write_bytes(JOINED)
    marked.write_bytes(BOM + JOINED)
    assert resolve_corpus(Corpus(kind="text", path=str(plain))).sha256 == hashlib.sha256(JOINED).hexdigest()
    assert prepare_text_file(resolve_corpus(Corpus(kind="text", path=str(plain)))) == plain
    assert read(Corpus(kind="text", path=str(marked))) == JOINED
    (tmp_path / "m.jsonl").write_bytes(BOM + json_lines(DOCUMENTS))
    assert read(Corpus.model_validate(f"jsonl:{tmp_path / 'm.jsonl'}")) == JOINED


def test_the_text_of_a_folder_is_read_once_and_again_after_a_change(tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text(name * 3)
        os.utime(tmp_path / name, (1e9, 1e9))
    corpus = Corpus(kind="text", path=str(tmp_path))
    first = resolve_corpus(corpus)
    (tmp_path / "b.txt").write_text("changed")
    assert resolve_corpus(corpus).sha256 != first.sha256
    assert read(corpus) == b"a.txt" * 3 + b"\n\nchanged"
    prepare_text_file(first).unlink()
    with pytest.raises(CorpusError, match="contains a text with sha256"):
        prepare_text_file(first)


def tar(folder: Path) -> bytes:
    (folder / "inner.txt").write_text("text")
    with tarfile.open(folder / "x.tar", "w") as archive:
        archive.add(folder / "inner.txt", "inner.txt")
    return (folder / "x.tar").read_bytes()


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (json_lines(DOCUMENTS), "JSON lines, not plain text\\.\nWrite {jsonl: PATH"),
        (BOM + json_lines(DOCUMENTS[:1]), "JSON lines"),
        (json_lines(["long " * 50_000]), "JSON lines"),
        (gzip.compress(json_lines(DOCUMENTS)), "JSON lines"),
        (b"PAR1 and so on", "a Parquet file.*\nWrite {parquet: PATH"),
        (b"ARROW1\0\0", "an Arrow file"),
        (b"%PDF-1.7\n", "a PDF file"),
        (b"\x89PNG\r\n", "a PNG image"),
        ("\ufefftext".encode("utf-16-le"), "UTF-16 text"),
        ("text".encode("utf-16-be"), "binary data"),
        (b"text\0more", "binary data"),
        (b"SQLite format 3\0", "an SQLite database"),
        (b"\x93NUMPY\x01", "a NumPy array"),
        (b"\x80\x04\x95", "a Python pickle"),
        (lzma.compress(b"text")[:-5], "a damaged xz file"),
        (bz2.compress(b"text" * 999)[:-5], "a damaged bzip2 file|Compressed file ended"),
        (zstd(b"text" * 99)[:-5], "a damaged zstd file"),
    ],
)
def test_what_is_no_text_is_refused_for_what_it_is(data: bytes, found: str, tmp_path: Path) -> None:
    (tmp_path / "corpus.txt").write_bytes(data)
    with pytest.raises(CorpusError, match=found) as error:
        resolve_corpus(Corpus(kind="text", path=str(tmp_path / "corpus.txt")))
    assert str(error.value).count("\n") == 1


def test_a_tar_archive_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "corpus.txt").write_bytes(gzip.compress(tar(tmp_path)))
    with pytest.raises(CorpusError, match="a tar archive"):
        resolve_corpus(Corpus(kind="text", path=str(tmp_path / "corpus.txt")))


@pytest.mark.parametrize(
    "text", ["{not json} but prose\n" * 9, '{"a": 1} began the prose.\n', "{\n}\n", "[1, 2]\n", "{}x"]
)
def test_prose_with_braces_is_text(text: str, tmp_path: Path) -> None:
    (tmp_path / "prose.txt").write_text(text)
    assert read(Corpus(kind="text", path=str(tmp_path / "prose.txt"))) == text.encode()


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b'{"text": "a"}\n{"body": "b"}\n', "line 2 .*no field 'text'; the fields are body\\.\nWrite field: body"),
        (b'{"text": 3, "n": 1}\n', "line 1 .*field 'text' is int, not text; the fields are n, text"),
        (b'{"text": null}\n', "field 'text' is NoneType"),
        (b'{"text": "a"}\n{"text": \n', "line 2 .*not JSON"),
        (b'[\n{"text": "a"}\n]\n', "line 1 .*a JSON array over several lines"),
        (b'["a"]\n', "no field 'text'"),
        (b'{"text": "\\ud800"}\n', "an unpaired surrogate"),
        (b'{"text": "\xff"}\n', "line 1 .*not JSON"),
        (b"[" * 100_000 + b"\n", "line 1"),
        (b"\x00\x01", "binary data"),
    ],
)
def test_records_without_text_are_told_with_their_line(data: bytes, found: str, tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_bytes(data)
    with pytest.raises(CorpusError, match=found) as error:
        resolve_corpus(Corpus.model_validate(f"jsonl:{tmp_path / 'x.jsonl'}"))
    assert str(error.value).count("\n") == 1


def test_parquet_without_that_column_or_damaged(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "x.parquet", DOCUMENTS, "content")
    for field, found in (("text", "no column 'text'; the fields are id, content"), ("id", "column 'id' is not text")):
        with pytest.raises(CorpusError, match=found):
            resolve_corpus(Corpus.model_validate({"parquet": str(path), "field": field}))
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(CorpusError, match="a damaged Parquet file"):
        resolve_corpus(Corpus.model_validate(f"parquet:{path}#content"))


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"jsonl": ""}, "needs a text file"),
        ({"text": "x", "field": "text"}, "write {jsonl: x, field: text}"),
        ({"jsonl": "x", "feild": "text"}, "did you mean 'field'"),
        ({"jsonlines": "x", "field": "text"}, "did you mean 'jsonl'"),
        ({"enwik8": "x", "field": "text"}, "has no fields"),
    ],
)
def test_other_forms_are_refused(fields: dict[str, str], found: str) -> None:
    with pytest.raises(ValidationError, match=found):
        Corpus.model_validate(fields)


def test_empty_folders_and_patterns_without_files(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "*.jsonl"):
        with pytest.raises(CorpusError, match="no file there fits"):
            resolve_corpus(Corpus.model_validate(f"jsonl:{path}"))
    with pytest.raises(CorpusError, match="No such file"):
        resolve_corpus(Corpus.model_validate(f"jsonl:{tmp_path / 'absent.jsonl'}"))
