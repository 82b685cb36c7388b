"""Texts with one official place and a known digest: fetched once into the cache, checked, never trusted."""

import http.client
import os
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from pipeline import cache
from pipeline.corpora.text_io import BLOCK_BYTES, hash_blocks, read_blocks
from pipeline.errors import CorpusError, FetchError
from pipeline.progress import Progress

TIMEOUT_S = 60.0


@dataclass(frozen=True)
class OfficialText:
    """A packed text at an address.

    Args:
        sha256: of the text's bytes after unpacking.
    """

    name: str
    url: str
    sha256: str

    @property
    def download_path(self) -> Path:
        """Where its packed file is kept, and where a person may put it."""
        return cache.folder("downloads") / self.url.rpartition("/")[2]


ENWIK8 = OfficialText(
    name="enwik8",
    url="http://mattmahoney.net/dc/enwik8.zip",
    sha256="2b49720ec4d78c3c9fabaee6e4179a5e997302b3a70029f30f2d582218c024a8",
)


def fetch_packed(official: OfficialText) -> Path:
    """The packed file: what lies at its place, else downloaded and checked.

    Raises:
        FetchError: it cannot be downloaded now.
        CorpusError: what came is not the text with the known sha256.
    """
    if not official.download_path.exists():
        _download(official)
    return official.download_path


def _download(official: OfficialText) -> None:
    temporary = official.download_path.with_name(f".{official.download_path.name}.{uuid4().hex}")
    try:
        with temporary.open("wb") as file:
            file.writelines(_received(official.url))
        if (found := hash_blocks(read_blocks(temporary))) != official.sha256:
            raise CorpusError(
                f"{official.name} with sha256 {official.sha256}",
                f"{official.url} gave a text with {found}",
                f"Put the right file at {official.download_path}, or name your own: {official.name}:PATH",
            )
        os.replace(temporary, official.download_path)
    except (OSError, http.client.HTTPException) as error:
        raise FetchError(
            f"{official.name} from {official.url}",
            f"cannot be downloaded ({getattr(error, 'reason', None) or error})",
            f"Put the file at {official.download_path}, or name your own copy: {official.name}:PATH",
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def _received(url: str) -> Iterator[bytes]:
    with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:
        length = answer.headers.get("Content-Length")
        with Progress(f"Downloading {url}", int(length) if length else None) as progress:
            while block := answer.read(BLOCK_BYTES):
                yield block
                progress.advance(len(block))
        if length and progress.done < int(length):  # of which `read` with a size says nothing
            raise ConnectionError(f"cut off after {progress.done:,} of {int(length):,} bytes")
