"""Fixtures: one small lake, its reader and its page."""

from pathlib import Path

import pytest

from tests.support import recorded_clouds, report_rows

STEPS = (0, 1, 8, 64, 512, 4096)
MODELS = {"lab/big": "decoder", "lab/bert": "encoder"}


@pytest.fixture(scope="session")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    uri = report_rows.lake(tmp_path_factory.mktemp("report") / "lake", MODELS, STEPS)
    recorded_clouds.add_records(uri)
    return uri


@pytest.fixture(scope="session")
def reader(uri: str):
    from pipeline import lake

    return lake.open_lake(uri)


@pytest.fixture(scope="session")
def page(reader, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from pipeline.report import write_report

    (written,) = write_report(reader, tmp_path_factory.mktemp("page") / "report.html")
    return written
