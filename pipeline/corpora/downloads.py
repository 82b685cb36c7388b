"""Download of published texts into the cache; a downloaded text must have the checksum that is stated here."""

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
    """Published text: its URL, and the sha256 of its decompressed bytes."""

    name: str
    url: str
    sha256: str

    @property
    def download_path(self) -> Path:
        """Path of the compressed file in the cache; a file put there by hand is used without a download."""
        return cache.folder("downloads") / self.url.rpartition("/")[2]


ENWIK8_SHA256 = "2b49720ec4d78c3c9fabaee6e4179a5e997302b3a70029f30f2d582218c024a8"
ENWIK8 = OfficialText("enwik8", "http://mattmahoney.net/dc/enwik8.zip", ENWIK8_SHA256)


def fetch_packed(official: OfficialText) -> Path:
    """Return the path of the compressed file in the cache; download it first if it is absent.

    Only a download is verified here, not a file that was already in the cache.

    Raises:
        FetchError: the download failed; a later attempt can succeed.
        CorpusError: the downloaded text does not have the expected sha256.
    """
    if not official.download_path.exists():
        _download(official)
    return official.download_path


def _download(official: OfficialText) -> None:
    temporary = official.download_path.with_name(f".{official.download_path.name}.{uuid4().hex}")
    instead = f"{official.download_path}, or use a local copy: {official.name}:PATH"
    try:
        with temporary.open("wb") as file:
            file.writelines(_download_blocks(official.url))
        if (found := hash_blocks(read_blocks(temporary))) != official.sha256:
            asked, found = f"{official.name} with sha256 {official.sha256}", f"returned a text with sha256 {found}"
            raise CorpusError(asked, f"{official.url} {found}", f"Put the original file at {instead}")
        os.replace(temporary, official.download_path)
    except (OSError, http.client.HTTPException) as error:
        found = f"cannot be downloaded ({getattr(error, 'reason', None) or error})"
        raise FetchError(
            f"{official.name} from {official.url}", found, f"Run again later, put the file at {instead}"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def _download_blocks(url: str) -> Iterator[bytes]:
    with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response:
        length = response.headers.get("Content-Length")
        with Progress(f"Downloading {url}", int(length) if length else None) as progress:
            while block := response.read(BLOCK_BYTES):
                yield block
                progress.advance(len(block))
        if length and progress.done < int(length):  # `read(size)` does not raise on a truncated body
            raise ConnectionError(f"cut off after {progress.done:,} of {int(length):,} bytes")
