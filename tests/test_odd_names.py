"""Lakes, models and corpora with any legal name work in every command and reader."""

import shutil
from pathlib import Path

import duckdb
import pytest

from pipeline.lake import open_lake
from tests.support import tiny_checkpoints as tiny

NAMES = ("lake [v1]", "lake*?", 'it\'s a "lake"', "a=b", "{x} 50%", "東京 #1", "-lake", "$HOME;a&b")
COMMANDS = (
    ("status",),
    ("query", "select count(*) as n, max(anisotropy) from layers"),
    ("compact",),
    ("query", "@dome"),
    ("findings", "dome"),
    ("verify",),
    ("status", "--failed"),
)


@pytest.mark.parametrize("name", NAMES)
def test_a_lake_of_that_name_is_read_by_every_command(name: str, odd_lake: Path, tmp_path: Path, shapelake) -> None:
    lake = Path(shutil.copytree(odd_lake, tmp_path / name))
    for command in COMMANDS:
        code, out, err = shapelake(*command, "--lake", lake)
        assert code == 0, (command, out, err)
    assert open_lake(str(lake)).query_frame("select count(*) as n from layers")["n"].item() == 2 * 4
    files = [str(path) for path in (lake / "cells").rglob("*.parquet")]
    assert duckdb.sql("select count(*) from read_parquet(?)", params=[files]).fetchall() == [(8,)]


@pytest.mark.parametrize("name", ["lake [v1]", "lake*?", "'"])
def test_a_snapshot_of_that_lake_is_extended(name: str, odd_lake: Path, tmp_path: Path, shapelake) -> None:
    """The second compaction reads the rows of the first from its file."""
    lake = Path(shutil.copytree(odd_lake, tmp_path / name))
    later, *_ = (lake / "cells").rglob("*.parquet")
    later.rename(tmp_path / "later")
    assert shapelake("compact", "--lake", lake)[0] == 0
    (tmp_path / "later").rename(later)
    code, out, err = shapelake("compact", "--lake", lake)
    assert (code, out[:15]) == (0, "2 cells, 8 rows"), err
    assert shapelake("verify", "--lake", lake)[0] == 0


@pytest.fixture(scope="module")
def odd_lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Lake with two cells of a history whose model and corpus have odd names too."""
    from pipeline.lake import Lake
    from pipeline.sweep.config import load_sweep
    from pipeline.sweep.plan import make_plan
    from pipeline.sweep.run import run

    folder = tmp_path_factory.mktemp("odd")
    root = tiny.history(folder / "my [model]* = 'x' 50%", [1, 2])
    text = tiny.text(folder / "prose [1] #2.txt")
    sweep = load_sweep(str(tiny.sweep_file(folder, root, corpora=[{"text": str(text)}])))
    lake = Lake(folder / "lake")
    assert run(make_plan(sweep, lake), lake, "inline").exit_code == 0
    return folder / "lake"
