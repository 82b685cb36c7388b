"""Resolution of a corpus: its checksum, and a plain UTF-8 file with its text."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline import cache
from pipeline.corpora import text_io
from pipeline.corpora.downloads import ENWIK8, fetch_packed
from pipeline.corpora.text_io import cache_text, check_utf8, detect_compression, find_cached_text, read_blocks
from pipeline.corpora.wikitext import extract_articles
from pipeline.errors import CorpusError
from pipeline.hashing import cached_sha256, file_sha256
from pipeline.progress import track_bytes
from pipeline.spec import ALGORITHMS, Corpus


def resolve_corpus(corpus: Corpus) -> Corpus:
    """Return the corpus with the sha256 of its decompressed text; random-uniform has none.

    The checksum of a local file is cached. Nothing is downloaded: the checksum of the official enwik8 is a constant.

    Raises:
        CorpusError: the file is absent, or is not UTF-8 text, plain, .gz or .zip with one member.
    """
    if corpus.kind == "random-uniform":
        return corpus
    digest = _digest(corpus.id, Path(corpus.path)) if corpus.path else ENWIK8.sha256
    return corpus.model_copy(update={"sha256": digest})


def prepare_text_file(corpus: Corpus) -> Path:
    """Return a plain UTF-8 file with the text of a resolved corpus, downloaded, unpacked and cleaned as needed.

    Raises:
        CorpusError: the file changed since the corpus was resolved.
        FetchError: the official text cannot be downloaded now.
    """
    plain = _plain_file(corpus)
    return _clean_dump(plain, str(corpus.sha256)) if corpus.kind == "enwik8" else plain


def text_sha256(corpus: Corpus) -> str | None:
    """Return the checksum of the text to tokenise: of the cleaned prose for enwik8, else of the corpus itself."""
    return file_sha256(prepare_text_file(corpus)) if corpus.kind == "enwik8" else corpus.sha256


def _plain_file(corpus: Corpus) -> Path:
    """Return a plain file of the text before cleaning, verified against the corpus's sha256."""
    sha256 = str(corpus.sha256)
    if corpus.path and not _is_packed(corpus.id, Path(corpus.path)):
        _require_digest(corpus, _digest(corpus.id, Path(corpus.path)), corpus.path)
        return Path(corpus.path)
    with cache.hold_file_lock(cache.folder("texts") / sha256):
        if (path := find_cached_text(sha256)) is None:
            source = Path(corpus.path) if corpus.path else fetch_packed(ENWIK8)
            _require_digest(corpus, cache_text(check_utf8(read_blocks(source), str(source))), source)
            path = find_cached_text(sha256)
    assert path, "the text was just cached under this checksum"
    return path


def _clean_dump(dump: Path, sha256: str) -> Path:
    """Return a file with the prose of a dump, cached per checksum and version of the cleaning rules."""
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


def _is_packed(name: str, path: Path) -> bool:
    with _os_error_as_corpus_error(name, path):
        return detect_compression(path) is not None


def _digest(name: str, path: Path) -> str:
    with _os_error_as_corpus_error(name, path):
        return cached_sha256(path, "text", _hash_text)


def _hash_text(path: Path) -> str:
    """Return the text's sha256; an unpacked text is cached, so that it is unpacked once."""
    stream, label = check_utf8(read_blocks(path), str(path)), f"Reading {path.name}"
    if detect_compression(path):
        return cache_text(track_bytes(stream, label, None))
    return text_io.hash_blocks(track_bytes(stream, label, path.stat().st_size))


@contextmanager
def _os_error_as_corpus_error(name: str, path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        other = f": {error.filename}" if error.filename and str(error.filename) != str(path) else ""
        found = f"cannot be read ({error.strerror or error}{other})"
        do = "Give the path of a readable UTF-8 text: plain, .gz or .zip"
        raise CorpusError(f"corpus {name} from {path}", found, do) from error
