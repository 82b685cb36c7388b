"""A sweep survives the loss of Ray, of its lake, of files and of drivers (about two minutes per seed)."""

import random

import pytest

from tests.chaos.places import DISASTERS, attack

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.timeout(900)
def test_nothing_is_lost_condemned_or_wrong(seed, tmp_path, monkeypatch):
    for name in ("RAY_AUTH_MODE", "SHAPELAKE_CACHE"):
        monkeypatch.setenv(name, "")  # restored at the end
    places, verdict = attack(tmp_path, 400, 1, random.Random(seed))
    assert not any(verdict), (verdict, places.wrong_exits, places.log_path.read_text()[-3000:])
    assert set(places.happened) == set(DISASTERS)
