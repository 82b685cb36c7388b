"""A fake Hub for one test, with every cache and scratch folder of its own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub.fake import FakeHub


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A fake Hub that this process and its children take for the real one."""
    import huggingface_hub
    from huggingface_hub import constants

    with FakeHub() as hub:
        environment = hub.environment(tmp_path)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("HF_TOKEN", raising=False)
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
