"""Fixture of a fake Hub per test with separate cache and scratch folders; checks that no test leaks a secret."""

import time
from collections.abc import Generator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pyarrow.parquet import ParquetFile

from tests.support import tiny_checkpoints as tiny
from tests.support.fake_hub import FakeHub

TOKEN = "hf_" + "nobodyMayReadThis" * 2
"""Token in the environment of every test with a Hub; tests without a token delete it."""
SECRETS = {
    "HF_TOKEN": TOKEN,
    "RAY_AUTH_TOKEN": "nobodyMaySubmitWithThis",
    "AWS_SECRET_ACCESS_KEY": "nobodyMaySignWithThis",
    "AWS_SESSION_TOKEN": "nobodyMayActWithThis",
}
"""Secrets of a run on a cluster with a lake in S3; alphanumeric, so that encoding cannot hide them."""


def files_with_secrets(folder: Path) -> list[Path]:

    return [path for path in folder.rglob("*") if path.is_file() and contains_secret(_read(path))]


def contains_secret(text: bytes | str) -> bool:
    data = text.encode() if isinstance(text, str) else text
    return any(secret.encode() in data for secret in SECRETS.values())


def _read(path: Path) -> bytes:
    """Return the bytes of a file; for Parquet, whose pages are compressed, with decoded rows and metadata."""
    data = path.read_bytes()
    if path.suffix != ".parquet":
        return data
    table = ParquetFile(path).read()
    return data + repr((table.schema.metadata, table.to_pylist())).encode()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """Start a fake Hub, and configure this process and its children to use it."""
    import huggingface_hub
    from huggingface_hub import constants

    with FakeHub() as hub:
        environment = hub.environment(tmp_path)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        for name, value in SECRETS.items():
            monkeypatch.setenv(name, value)
        # The library reads its environment at import, so its constants are patched too.
        home = Path(environment["HF_HOME"])
        monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
        files = hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", files)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HOME", str(home))
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
        yield hub
        huggingface_hub.close_session()
    leaks = files_with_secrets(tmp_path)
    assert not leaks, f"a secret was written to {leaks}"


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the prose that sweeps of the Hub are measured on."""
    return tiny.text(tmp_path_factory.mktemp("text") / "prose.txt")


@pytest.fixture
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the back-off of our retries and of the library's, and the polling for disk space."""
    from pipeline.catalog import hub_http, scratch

    monkeypatch.setattr(hub_http, "FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(scratch, "POLL_S", 0.02)
    # The library waits 1 s before it resumes a download.
    monkeypatch.setattr("huggingface_hub.file_download.time", SimpleNamespace(sleep=lambda _: time.sleep(0.01)))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    """Fail a test that prints, logs or raises a secret."""
    report = yield
    if contains_secret(report.longreprtext + report.capstdout + report.capstderr + report.caplog):
        report.outcome, report.longrepr = "failed", "a secret was printed, logged or raised"
    return report
