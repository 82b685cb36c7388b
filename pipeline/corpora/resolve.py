"""Resolution of a corpus to the checksum of its text, and to a plain UTF-8 file with this text."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline import cache
from pipeline.corpora import text_io
from pipeline.corpora.downloads import ENWIK8, fetch_packed
from pipeline.corpora.text_files import is_plain, list_files, read_text
from pipeline.corpora.text_io import cache_text, check_utf8, find_cached_text, read_blocks
from pipeline.corpora.wikitext import extract_articles
from pipeline.errors import CorpusError
from pipeline.hashing import cached_sha256_of_files, file_sha256
from pipeline.progress import track_bytes
from pipeline.spec import ALGORITHMS, Corpus


def resolve_corpus(corpus: Corpus) -> Corpus:
    """Return a copy of the corpus with the sha256 of its decompressed text.

    The corpus random-uniform has no text and is returned unchanged. The checksum is that of the text as it is read:
    without byte order marks, with only the text field of each record, and with a blank line between two documents. For
    enwik8, it is that of the text before cleaning. Checksums of local files are cached. Nothing is downloaded: the
    checksum of the official enwik8 is a constant.

    Raises:
        CorpusError: a file is absent, or is not UTF-8 text, or a record has no text in the field.
    """
    if corpus.kind == "random-uniform":
        return corpus
    digest = _digest(corpus) if corpus.path else ENWIK8.sha256
    return corpus.model_copy(update={"sha256": digest})


def plain_text_bytes(corpus: Corpus) -> int | None:
    """Return the size in bytes of a corpus that is one plain local file; None for every other corpus."""
    if not corpus.path or corpus.kind == "enwik8":
        return None
    with _os_error_as_corpus_error(corpus):
        files = list_files(corpus)
        return files[0].stat().st_size if is_plain(corpus, files) else None


def prepare_text_file(corpus: Corpus) -> Path:
    """Return the path of a plain UTF-8 file with the text of a resolved corpus.

    The text is downloaded, decompressed, extracted from records, and cleaned (enwik8) first, as far as it needs to be.

    Raises:
        CorpusError: the corpus cannot be read, or its text changed since the corpus was resolved.
        FetchError: the official text cannot be downloaded now.
    """
    plain = _plain_file(corpus)
    return _clean_dump(plain, str(corpus.sha256)) if corpus.kind == "enwik8" else plain


def text_sha256(corpus: Corpus) -> str | None:
    """Return the sha256 of the text to tokenise: for enwik8, of the cleaned prose; otherwise `corpus.sha256`."""
    return file_sha256(prepare_text_file(corpus)) if corpus.kind == "enwik8" else corpus.sha256


def _plain_file(corpus: Corpus) -> Path:
    """Return the path of a plain file with the text before cleaning; CorpusError if its sha256 is not as resolved."""
    sha256 = str(corpus.sha256)
    with _os_error_as_corpus_error(corpus):
        files = list_files(corpus) if corpus.path else []
        if files and is_plain(corpus, files):
            _require_digest(corpus, _digest(corpus), files[0])
            return files[0]
    with cache.hold_file_lock(cache.folder("texts") / sha256):
        if (path := find_cached_text(sha256)) is None:
            source = corpus.path or fetch_packed(ENWIK8)
            with _os_error_as_corpus_error(corpus):
                text = read_text(corpus, files) if files else check_utf8(read_blocks(Path(source)), str(source))
                _require_digest(corpus, cache_text(text), source)
            path = find_cached_text(sha256)
    assert path, "the text was just cached under this checksum"
    return path


def _clean_dump(dump: Path, sha256: str) -> Path:
    """Return the path of a file with the prose of a dump, cached per checksum and version of the cleaning rules."""
    entry = cache.folder("cleaned") / f"{sha256}-{ALGORITHMS['cleaning']}"
    with cache.hold_file_lock(entry):
        if entry.exists() and (path := find_cached_text(entry.read_text())):
            return path
        digest = cache_text(track_bytes(extract_articles(dump), f"Cleaning {dump.name}", None))
        cache.write_atomic(entry, digest.encode())
    path = find_cached_text(digest)
    assert path, "the text was just cached under this checksum"
    return path


def _require_digest(corpus: Corpus, found: str, source: str | Path) -> None:
    if found != corpus.sha256:
        asked = f"corpus {corpus.id} with sha256 {corpus.sha256}"
        found = f"{source} contains a text with sha256 {found}"
        restore = "Restore the original text, or plan the sweep again with this one"
        raise CorpusError(asked, found, restore if corpus.path else f"Delete {source}, and run again to download it")


def _digest(corpus: Corpus) -> str:
    with _os_error_as_corpus_error(corpus):
        files = list_files(corpus)
        kind = f"records:{corpus.field}" if corpus.is_records else "text"
        return cached_sha256_of_files(files, kind, lambda: _hash_text(corpus, files))


def _hash_text(corpus: Corpus, files: list[Path]) -> str:
    """Return the sha256 of the text of a corpus.

    A text that is not one plain file is also written to the cache, so that its files are read only once.
    """
    text, label = read_text(corpus, files), f"Reading {Path(corpus.path or '').name}"
    if is_plain(corpus, files):
        return text_io.hash_blocks(track_bytes(text, label, files[0].stat().st_size))
    return cache_text(track_bytes(text, label, None))


@contextmanager
def _os_error_as_corpus_error(corpus: Corpus) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        other = f": {error.filename}" if error.filename and str(error.filename) != str(corpus.path) else ""
        found = f"cannot be read ({error.strerror or error}{other})"
        do = "Name readable UTF-8 text: a file, plain or compressed (.gz, .xz, .zst, .bz2, .zip), a folder or a pattern"
        raise CorpusError(f"corpus {corpus.id} from {corpus.path}", found, do) from error
