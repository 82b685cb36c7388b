"""Fixture: a lake that does not exist yet."""

from pathlib import Path

import pytest


@pytest.fixture
def lake(tmp_path: Path):
    from pipeline.lake import Lake

    return Lake(tmp_path / "lake")
