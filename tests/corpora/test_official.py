"""The official text is downloaded once on demand and verified; a failed download names the file and its path."""

import hashlib
import http.server
import socket
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest

from pipeline.corpora import downloads, resolve, resolve_corpus
from pipeline.corpora.downloads import ENWIK8, OfficialText
from pipeline.corpora.resolve import prepare_text_file
from pipeline.errors import CorpusError, FetchError
from pipeline.spec import Corpus

TEXT = b"<page><title>A</title><text>'''Word''' by [[word]].</text></page>" * 1000
RAW = Corpus(kind="enwik8-raw")


def zipped(data: bytes) -> bytes:
    file = BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("enwik8", data)
    return file.getvalue()


class Site:
    """HTTP server of one file that counts its requests."""

    def __init__(self) -> None:
        self.body, self.length, self.requests = zipped(TEXT), None, 0
        site = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site.requests += 1
                self.send_response(200)
                self.send_header("Content-Length", str(site.length or len(site.body)))
                self.end_headers()
                self.wfile.write(site.body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/enwik8.zip"


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Site]:
    monkeypatch.setenv("SHAPELAKE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    site = Site()
    thread = threading.Thread(target=site.server.serve_forever, args=(0.01,))
    thread.start()
    yield site
    site.server.shutdown()
    thread.join()
    site.server.server_close()


@pytest.fixture
def publish(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], OfficialText]:
    def at(url: str) -> OfficialText:
        published = replace(ENWIK8, url=url, sha256=hashlib.sha256(TEXT).hexdigest())
        monkeypatch.setattr(resolve, "ENWIK8", published)
        return published

    return at


def test_the_published_digest_is_known_without_a_visit(site: Site, publish: Callable[[str], OfficialText]) -> None:
    assert ENWIK8.sha256 == "2b49720ec4d78c3c9fabaee6e4179a5e997302b3a70029f30f2d582218c024a8"
    publish(site.url)
    assert resolve_corpus(RAW).sha256 == hashlib.sha256(TEXT).hexdigest()
    assert site.requests == 0


def test_the_text_is_downloaded_once_for_both_kinds(site: Site, publish: Callable[[str], OfficialText]) -> None:
    publish(site.url)
    assert prepare_text_file(resolve_corpus(RAW)).read_bytes() == TEXT
    assert prepare_text_file(resolve_corpus(RAW)).read_bytes() == TEXT
    assert prepare_text_file(resolve_corpus(Corpus(kind="enwik8"))).read_bytes() == b"Word by word.\n\n" * 1000
    assert site.requests == 1


def test_a_file_put_in_place_by_hand_is_used(site: Site, publish: Callable[[str], OfficialText]) -> None:
    publish(site.url).download_path.write_bytes(site.body)
    assert prepare_text_file(resolve_corpus(RAW)).read_bytes() == TEXT
    assert site.requests == 0


@pytest.mark.parametrize("damage", ["other text", "cut zip", "no zip"])
def test_a_download_that_is_not_the_known_text_is_refused_and_not_kept(
    site: Site, publish: Callable[[str], OfficialText], damage: str
) -> None:
    path = publish(site.url).download_path
    site.body = {"other text": zipped(TEXT[1:]), "cut zip": site.body[:-30], "no zip": b"<html>Gone"}[damage]
    with pytest.raises(CorpusError) as caught:
        prepare_text_file(resolve_corpus(RAW))
    assert len(str(caught.value).splitlines()) == 2
    assert list(path.parent.iterdir()) == []


def test_a_download_that_the_network_cuts_off_may_work_the_next_time(
    site: Site, publish: Callable[[str], OfficialText]
) -> None:
    path, whole = publish(site.url).download_path, site.body
    site.body, site.length = whole[:-30], len(whole)
    with pytest.raises(FetchError, match=f"cut off after {len(whole) - 30:,} of {len(whole):,} bytes") as caught:
        prepare_text_file(resolve_corpus(RAW))
    assert len(str(caught.value).splitlines()) == 2
    assert list(path.parent.iterdir()) == []
    site.body = whole
    assert prepare_text_file(resolve_corpus(RAW)).read_bytes() == TEXT


def test_a_wrong_file_put_in_place_by_hand_is_named(site: Site, publish: Callable[[str], OfficialText]) -> None:
    path = publish(site.url).download_path
    path.write_bytes(zipped(b"something else"))
    with pytest.raises(CorpusError, match=f"{path} .*{hashlib.sha256(b'something else').hexdigest()}") as caught:
        prepare_text_file(resolve_corpus(RAW))
    assert f"Delete {path}" in caught.value.do


def test_without_a_network_the_error_says_what_to_put_where(
    publish: Callable[[str], OfficialText], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SHAPELAKE_CACHE", str(tmp_path))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/enwik8.zip"
    publish(url)
    with pytest.raises(FetchError) as caught:
        prepare_text_file(resolve_corpus(RAW))
    first, second = str(caught.value).splitlines()
    assert first.startswith(f"enwik8 from {url}: cannot be downloaded (")
    assert "refused" in first
    assert f"{tmp_path}/downloads/enwik8.zip" in second
    assert "enwik8:PATH" in second


def test_the_known_address_is_that_of_the_publisher() -> None:
    assert downloads.ENWIK8.url == "http://mattmahoney.net/dc/enwik8.zip"
