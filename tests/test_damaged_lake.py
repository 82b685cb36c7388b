"""Commands on a lake with damaged and foreign files: they print their results, list the files, and exit with 1."""

import os

import pytest

SQL = "select count(distinct cell_id) as n from layers"


@pytest.fixture
def commands(measured_lake, tmp_path):
    """The reading commands of this lake, by name."""
    sweep = tmp_path / "sweep.yaml"
    return {
        "query": ("query", SQL, "--csv", "--lake", measured_lake),
        "status": ("status", "--lake", measured_lake),
        "plan": ("plan", sweep, "--lake", measured_lake),
        "compact": ("compact", "--lake", measured_lake),
    }


def damage(lake, pattern, data=b'{"half": '):
    path = sorted(lake.glob(pattern))[0]
    path.write_bytes(data)
    return path.name


@pytest.mark.parametrize(
    ("pattern", "readers"),
    [
        ("cells/v1/*/*.parquet", ("query", "status", "compact")),
        ("runs/*/progress.json", ("status",)),
        ("recipes/*.json", ("plan",)),
    ],
)
def test_a_damaged_file_is_left_out_and_listed(measured_lake, commands, shapelake, pattern, readers):
    name = damage(measured_lake, pattern)
    for reader in readers:
        code, out, err = shapelake(*commands[reader])
        assert code == 1, reader
        assert out, "results all the same"
        assert f"{name} is left out" in err
        assert "Traceback" not in err
    code, out, _ = shapelake(*commands["query"])
    assert out.split() == ["n", "2" if "parquet" in pattern else "3"]
    code, out, _ = shapelake("verify", "--lake", measured_lake)
    assert code == 1
    assert name in out


def test_odd_files_are_reported_and_harmless(measured_lake, commands, shapelake):
    cells = next(measured_lake.glob("cells/v1/*"))
    os.mkfifo(cells / f"{'a' * 32}.parquet")
    (cells / f"{'b' * 32}.parquet").symlink_to("/dev/zero")
    (cells / "._x.parquet").write_bytes(b"macOS")
    (measured_lake / "_staging" / "folder").mkdir()
    for name, words in commands.items():
        code, _, err = shapelake(*words)
        assert code == 0, (name, err)
        assert err.count("is ignored") == 3
    assert shapelake("gc", "--lake", measured_lake)[0] == 0
    assert shapelake("verify", "--lake", measured_lake)[0] == 1
