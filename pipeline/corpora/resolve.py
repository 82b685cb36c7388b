"""From a Corpus to the plain file of its text, with the digest that identifies it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline import cache
from pipeline.corpora.cleaning import clean_dump
from pipeline.corpora.downloads import ENWIK8, fetch_packed
from pipeline.corpora.text_io import (
    cache_text,
    check_utf8,
    detect_compression,
    find_cached_text,
    hash_blocks,
    read_blocks,
)
from pipeline.errors import CorpusError
from pipeline.hashing import cached_sha256, file_sha256
from pipeline.progress import track_bytes
from pipeline.spec import Corpus


def resolve_corpus(corpus: Corpus) -> Corpus:
    """The corpus with the sha256 of its text's bytes after unpacking; null for random-uniform.

    A local file is read once, then remembered. Nothing is downloaded: the digest of the official enwik8 is known.

    Raises:
        CorpusError: there is no such file, or it is not UTF-8 text, plain, .gz or .zip with one member.
    """
    if corpus.kind == "random-uniform":
        return corpus
    digest = _digest(corpus.id, Path(corpus.path)) if corpus.path else ENWIK8.sha256
    return corpus.model_copy(update={"sha256": digest})


def prepare_text_file(corpus: Corpus) -> Path:
    """A plain UTF-8 file with the text of a resolved corpus, downloaded, unpacked and cleaned as its kind asks.

    Raises:
        CorpusError: the file changed since the corpus was resolved.
        FetchError: it cannot be downloaded now.
    """
    plain = _plain_file(corpus)
    return clean_dump(plain, str(corpus.sha256)) if corpus.kind == "enwik8" else plain


def text_sha256(corpus: Corpus) -> str | None:
    """Of the text that tokens are taken from: of a resolved enwik8 the prose, else what identifies the corpus."""
    return file_sha256(prepare_text_file(corpus)) if corpus.kind == "enwik8" else corpus.sha256


def _plain_file(corpus: Corpus) -> Path:
    """The text as published, its bytes those that the corpus's sha256 stands for."""
    wanted = str(corpus.sha256)
    if corpus.path and not _is_packed(corpus.id, Path(corpus.path)):
        _require_digest(corpus, _digest(corpus.id, Path(corpus.path)), corpus.path)
        return Path(corpus.path)
    with cache.hold_file_lock(cache.folder("texts") / wanted):
        if (place := find_cached_text(wanted)) is None:
            source = Path(corpus.path) if corpus.path else fetch_packed(ENWIK8)
            _require_digest(corpus, cache_text(check_utf8(read_blocks(source), str(source))), source)
            place = find_cached_text(wanted)
    assert place, "what was just unpacked has the digest that was just checked"
    return place


def _require_digest(corpus: Corpus, found: str, source: str | Path) -> None:
    if found != corpus.sha256:
        raise CorpusError(
            f"corpus {corpus.id} with sha256 {corpus.sha256}",
            f"{source} holds a text with {found}",
            "Put the right text there, or plan again with what is there now",
        )


def _is_packed(name: str, path: Path) -> bool:
    with _os_error_as_corpus_error(name, path):
        return detect_compression(path) is not None


def _digest(name: str, path: Path) -> str:
    with _os_error_as_corpus_error(name, path):
        return cached_sha256(path, "text", _hash_text)


def _hash_text(path: Path) -> str:
    """The text's sha256; what had to be unpacked is kept, so that it is unpacked once."""
    stream, label = check_utf8(read_blocks(path), str(path)), f"Reading {path.name}"
    if detect_compression(path):
        return cache_text(track_bytes(stream, label, None))
    return hash_blocks(track_bytes(stream, label, path.stat().st_size))


@contextmanager
def _os_error_as_corpus_error(name: str, path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        other = f": {error.filename}" if error.filename and str(error.filename) != str(path) else ""
        found = f"cannot be read ({error.strerror or error}{other})"
        raise CorpusError(f"corpus {name} from {path}", found, "Name a UTF-8 text, plain, .gz or .zip") from error
