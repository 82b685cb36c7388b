"""Files of a corpus (one file, or all files of a folder or glob), and their text as UTF-8 bytes."""

import glob
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from itertools import chain
from pathlib import Path

from pipeline.corpora.foreign_text import BOM, HEAD_BYTES, describe_foreign_text
from pipeline.corpora.records import DEFAULT_FIELD, PARQUET_MAGIC, read_documents
from pipeline.corpora.text_io import check_utf8, detect_compression, read_blocks
from pipeline.errors import CorpusError
from pipeline.spec import Corpus

SEPARATOR = b"\n\n"
"""Blank line between two documents."""
RECORD_PATTERNS = (("*.jsonl*", "*.ndjson*", "*.parquet"), ("*.json", "*.json.*"))
TEXT_PATTERNS = (("*.txt", "*.txt.*"), ("*",))
"""Patterns of the names of files to read in a folder, for records and for plain text. Each has two groups: files that
match the second group are read only if no file matches the first."""


def list_files(corpus: Corpus) -> list[Path]:
    """Return the files of a corpus, sorted by path. A path that exists is taken as it is, even if it has wildcards.

    Raises:
        CorpusError: a folder has no file to read, or a pattern matches no file.
    """
    path = Path(corpus.path or "")
    if path.is_dir():
        found = _files_of_folder(path, RECORD_PATTERNS if corpus.is_records else TEXT_PATTERNS)
    elif not path.exists() and corpus.is_pattern:
        found = [Path(name) for name in glob.glob(str(path), recursive=True) if Path(name).is_file()]
    else:
        return [path]
    if not found:
        asked = f"corpus {corpus.id} from {path}"
        raise CorpusError(
            asked, "no file there fits this corpus", "Name a file, a folder with files, or a pattern in quotes"
        )
    return sorted(found, key=lambda file: file.as_posix())


def is_plain(corpus: Corpus, files: list[Path]) -> bool:
    """Return True if the text of the corpus is exactly the bytes of one file (no compression, records or BOM)."""
    if corpus.is_records or len(files) != 1 or detect_compression(files[0]):
        return False
    with files[0].open("rb") as file:
        return file.read(len(BOM)) != BOM


def read_text(corpus: Corpus, files: list[Path]) -> Iterator[bytes]:
    """Yield the text of a corpus in blocks of UTF-8 bytes.

    Byte order marks are removed, and a blank line separates two documents.

    Raises:
        CorpusError: a file is damaged or not UTF-8 text, or a record has no text.
        OSError: a file cannot be opened.
    """
    documents = _documents(corpus, files)
    yield from next(documents, ())
    for blocks in documents:
        yield SEPARATOR
        yield from blocks


def _documents(corpus: Corpus, files: list[Path]) -> Iterator[Iterable[bytes]]:
    for path in files:
        if corpus.is_records:
            _require_text(path, _head(path), accept_records=True)
            yield from ((text.encode(),) for text in read_documents(path, corpus.field or DEFAULT_FIELD))
        else:
            yield _plain_text(corpus, path, is_whole=len(files) > 1)


def _plain_text(corpus: Corpus, path: Path, is_whole: bool) -> Iterator[bytes]:
    blocks = iter(read_blocks(path))
    head = next(blocks, b"")
    _require_text(path, head[:HEAD_BYTES], accept_records=corpus.kind.startswith("enwik8"))
    yield from check_utf8(chain([head.removeprefix(BOM)], blocks), str(path), allow_cut=not is_whole)


def _head(path: Path) -> bytes:
    return next(iter(read_blocks(path)), b"")[:HEAD_BYTES]


def _require_text(path: Path, head: bytes, accept_records: bool) -> None:
    if accept_records and head.startswith(PARQUET_MAGIC):
        return
    if foreign := describe_foreign_text(head, accept_records):
        raise CorpusError(f"corpus file {path}", f"{foreign.found}, not plain text", foreign.do)


def _files_of_folder(folder: Path, patterns: tuple[tuple[str, ...], ...]) -> list[Path]:
    """Return the visible files at any depth of a folder that match one group of patterns.

    This is the first group that any file matches; the list is empty if there is none.
    """
    files = [path for path in folder.rglob("*") if path.is_file() and not _is_hidden(path.relative_to(folder))]
    for group in patterns:
        if found := [path for path in files if any(fnmatchcase(path.name, pattern) for pattern in group)]:
            return found
    return []


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)
