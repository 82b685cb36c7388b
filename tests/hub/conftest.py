"""A fake Hub for one test, with every cache and scratch folder of its own, and secrets that no test may write down."""

import time
from collections.abc import Generator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pyarrow.parquet import ParquetFile

from tests.hub.fake import FakeHub

TOKEN = "hf_" + "nobodyMayReadThis" * 2
"""In the environment of every test with a Hub; tests that need to be without delete it."""
SECRETS = {
    "HF_TOKEN": TOKEN,
    "RAY_AUTH_TOKEN": "nobodyMaySubmitWithThis",
    "AWS_SECRET_ACCESS_KEY": "nobodyMaySignWithThis",
    "AWS_SESSION_TOKEN": "nobodyMayActWithThis",
}
"""Beside it those that a run has on a cluster and with a lake in S3; no encoding or line break hides one."""


def tellers(folder: Path) -> list[Path]:
    """The files below a folder in which a secret stands."""
    return [path for path in folder.rglob("*") if path.is_file() and tells(_read(path))]


def tells(text: bytes | str) -> bool:
    data = text.encode() if isinstance(text, str) else text
    return any(secret.encode() in data for secret in SECRETS.values())


def _read(path: Path) -> bytes:
    """A file; of Parquet, whose pages are compressed, the rows and the metadata too."""
    data = path.read_bytes()
    if path.suffix != ".parquet":
        return data
    table = ParquetFile(path).read()
    return data + repr((table.schema.metadata, table.to_pylist())).encode()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A fake Hub that this process and its children take for the real one."""
    import huggingface_hub
    from huggingface_hub import constants

    with FakeHub() as hub:
        environment = hub.environment(tmp_path)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        for name, value in SECRETS.items():
            monkeypatch.setenv(name, value)
        # The library reads its environment when it is imported, long before a test.
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
    told = tellers(tmp_path)
    assert not told, f"a secret was written to {told}"


@pytest.fixture
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before what failed is tried again, by us and by the library, and for room on the disk."""
    from pipeline.catalog import hub_http, scratch

    monkeypatch.setattr(hub_http, "FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(scratch, "POLL_S", 0.02)
    # The library waits 1 s before it resumes.
    monkeypatch.setattr("huggingface_hub.file_download.time", SimpleNamespace(sleep=lambda _: time.sleep(0.01)))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    """No test here prints, logs or raises a secret."""
    report = yield
    if tells(report.longreprtext + report.capstdout + report.capstderr + report.caplog):
        report.outcome, report.longrepr = "failed", "a secret was printed, logged or raised"
    return report
