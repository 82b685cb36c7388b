"""Text input in blocks, with constant memory: decompression, UTF-8 check, checksum, and a cache by checksum."""

import bz2
import codecs
import gzip
import hashlib
import lzma
import os
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal
from uuid import uuid4

from pipeline import cache
from pipeline.errors import CorpusError
from pipeline.hashing import file_sha256

BLOCK_BYTES = 1 << 20
Compression = Literal["gzip", "zip", "xz", "bzip2", "zstd"]
_MAGIC: dict[bytes, Compression] = {
    **{b"\x1f\x8b": "gzip", b"PK\x03\x04": "zip", b"PK\x05\x06": "zip", b"\xfd7zXZ\0": "xz", b"BZh": "bzip2"},
    b"\x28\xb5\x2f\xfd": "zstd",
}
# zipfile raises RuntimeError for an encrypted member or an unsupported compression.
_DAMAGE = (gzip.BadGzipFile, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError)


def detect_compression(path: Path) -> Compression | None:
    """Return the compression of a file by its first bytes, not by its name; None for a plain file."""
    with path.open("rb") as file:
        head = file.read(max(map(len, _MAGIC)))
    return next((kind for magic, kind in _MAGIC.items() if head.startswith(magic)), None)


def read_blocks(path: Path) -> Iterator[bytes]:
    """Yield the decompressed bytes of a file in blocks; it is plain, gzip, xz, bzip2, zstd or a zip with one member.

    Raises:
        CorpusError: the compressed file is damaged, or a zip does not have exactly one member.
        OSError: the file cannot be opened.
    """
    try:
        with _open_decompressed(path) as file:
            while block := file.read(BLOCK_BYTES):
                yield block
    except (*_DAMAGE, OSError) as error:
        # For a damaged file, the readers of bzip2 and zstd raise an OSError without errno.
        if isinstance(error, OSError) and error.errno is not None:
            raise
        found = f"a damaged {detect_compression(path)} file ({error})"
        raise CorpusError(f"corpus file {path}", found, "Replace it with an intact copy or plain text") from error


@contextmanager
def _open_decompressed(path: Path) -> Iterator[IO[bytes]]:
    kind = detect_compression(path)
    if kind == "zip":
        with zipfile.ZipFile(path) as archive:
            members = [info for info in archive.infolist() if not info.is_dir()]
            if len(members) != 1:
                found, do = f"a zip with {len(members)} members", "Give a zip with one text file, or plain text"
                raise CorpusError(f"corpus file {path}", found, do)
            with archive.open(members[0]) as file:
                yield file
    else:
        with _OPEN[kind](path) as file:
            yield file


def _open_zstd(path: Path) -> IO[bytes]:
    import pyarrow  # this import takes half a second, and only zstd needs it

    return pyarrow.input_stream(str(path), compression="zstd")


_OPEN: dict[Compression | None, Callable[[Path], Any]] = {
    **{None: lambda path: path.open("rb"), "gzip": gzip.open, "xz": lzma.open, "bzip2": bz2.open},
    "zstd": _open_zstd,
}


def check_utf8(stream: Iterable[bytes], name: str, allow_cut: bool = True) -> Iterator[bytes]:
    """Yield the blocks unchanged, and check that they are UTF-8.

    Args:
        name: name of the file, for error messages.
        allow_cut: if True, the last character may be incomplete.

    Raises:
        CorpusError: the bytes are not UTF-8 (the message states the byte offset), or the last character is incomplete
            although `allow_cut` is False.
    """
    decoder, at = codecs.getincrementaldecoder("utf-8")(), 0
    for block in stream:
        start = at - len(decoder.getstate()[0])
        try:
            decoder.decode(block)
        except UnicodeDecodeError as error:
            found = f"invalid UTF-8 at byte {start + error.start}"
            raise CorpusError(
                f"corpus file {name}", found, "Convert its text to UTF-8; the file may be .gz, .xz, .zst, .bz2 or .zip"
            ) from error
        at += len(block)
        yield block
    if not allow_cut and decoder.getstate()[0]:
        raise CorpusError(f"corpus file {name}", "its last character is cut", "Replace it with an intact copy")


def hash_blocks(stream: Iterable[bytes]) -> str:
    """Return the sha256 of all blocks in hex."""
    state = hashlib.sha256()
    for block in stream:
        state.update(block)
    return state.hexdigest()


def cache_text(stream: Iterable[bytes]) -> str:
    """Write a text to the cache under its sha256, atomically, and return the sha256."""
    temporary = cache.folder("texts") / f".{uuid4().hex}"
    try:
        with temporary.open("wb") as file:
            digest = hash_blocks(_write_through(stream, file))
        os.replace(temporary, _cached_path(digest))
    finally:
        temporary.unlink(missing_ok=True)
    return digest


def find_cached_text(digest: str) -> Path | None:
    """Return the path of the cached text with this sha256; None if it is absent or damaged."""
    path = _cached_path(digest)
    return path if path.exists() and file_sha256(path) == digest else None


def _cached_path(digest: str) -> Path:
    return cache.folder("texts") / f"{digest}.txt"


def _write_through(stream: Iterable[bytes], file: IO[bytes]) -> Iterator[bytes]:
    for block in stream:
        file.write(block)
        yield block
