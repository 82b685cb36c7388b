"""Local LoRA adapters over a base model on the Hub: fetched with its tokenizer, measured, removed."""

import json
from pathlib import Path

import pytest

from pipeline.catalog.discovery import discover_histories, find_base
from pipeline.catalog.fetch import fetch_temporarily
from pipeline.catalog.local_histories import inspect_checkpoint
from pipeline.catalog.scratch import scratch_root
from pipeline.errors import UsageError
from pipeline.lake import Lake, open_lake
from pipeline.spec import Local
from pipeline.sweep.config import load_sweep
from pipeline.sweep.plan import make_plan, reproduction_command
from tests.support import lora_folders as lora
from tests.support import tiny_checkpoints as tiny
from tests.support.fake_hub import FakeHub

SHAPES = {"gpt_neox.layers.1.attention.query_key_value": (96, 32)}


@pytest.fixture
def published(hub: FakeHub, tmp_path: Path) -> Path:
    """Publish a base model as owner/base, and return its local copy."""
    folder = tiny.checkpoint(tmp_path / "copy", 0)
    hub.repo("owner/base").commit({path.name: path.read_bytes() for path in folder.iterdir()}, branch="v2")
    hub.repo("owner/base").commit({"README.md": b"nothing else"})
    return folder


def test_a_base_on_the_hub_has_the_digests_of_its_local_copy(published: Path, tmp_path: Path) -> None:
    folder = lora.write(tmp_path / "lora" / "step1", lora.lora_tensors(SHAPES))
    local = inspect_checkpoint(folder, base=inspect_checkpoint(published))
    (found,) = discover_histories(Local(local=str(tmp_path / "lora"), base="owner/base@v2"))
    (checkpoint,) = found.checkpoints
    assert checkpoint.content == local.content
    assert checkpoint.download_bytes > (published / "model.safetensors").stat().st_size
    with fetch_temporarily(checkpoint, "run") as fetched:
        assert (Path(fetched.base_path) / "model.safetensors").is_file()
        assert fetched.tokenizer_path == fetched.base_path
        assert fetched.path == str(folder)
    assert not Path(fetched.base_path).exists()


def test_a_sweep_fetches_the_base_and_measures_the_adapters(published: Path, tmp_path: Path, shapelake) -> None:
    for step in (1, 2):
        lora.write(tmp_path / "lora" / f"step{step}", lora.lora_tensors(SHAPES, seed=step))
    sweep = tiny.sweep_file(tmp_path, tmp_path, checkpoints=[{"local": "lora", "base": "owner/base@v2"}])
    lake = Lake(str(tmp_path / "lake"))
    command = reproduction_command(make_plan(load_sweep(str(sweep)), lake).cells[0])
    assert "--base owner/base@" in command
    assert "--tokenizer" not in command
    assert shapelake("run", sweep, "--lake", tmp_path / "lake", "--backend", "inline")[0] == 0
    assert len(lake.committed_cell_ids()) == 2
    own = inspect_checkpoint(tmp_path / "lora" / "step1", base=inspect_checkpoint(published))
    assert own.content in {named.label.content for named in lake.labels()}


def test_a_repo_without_weights_is_no_base(published: Path) -> None:
    with pytest.raises(UsageError, match="owner/base"):
        find_base("owner/base")


@pytest.fixture
def adapters(hub: FakeHub, tmp_path: Path) -> Path:
    """Publish three adapters as branches of owner/lora, and return the folder of their local copies."""
    hub.repo("owner/lora").commit({"README.md": b"adapters"})
    for step in (1, 2, 3):
        folder = lora.write(tmp_path / "lora" / f"step{step}", lora.lora_tensors(SHAPES, seed=step))
        hub.repo("owner/lora").commit({path.name: path.read_bytes() for path in folder.iterdir()}, branch=f"step{step}")
    return tmp_path / "lora"


def measured(lake: Lake) -> list[tuple]:
    columns = "cell_id, revision, layer, anisotropy, id_twonn, loss"
    return open_lake(lake.uri).sql(f"select {columns} from layers order by revision, layer").fetchall()


@pytest.mark.parametrize("base", ["copy", "owner/base@v2"])
def test_adapters_on_the_hub_are_measured_like_their_local_copies(
    published: Path, adapters: Path, tmp_path: Path, shapelake, base: str
) -> None:
    lakes = []
    for name, source in {"hub": {"hub": "owner/lora"}, "local": {"local": "lora", "model": "owner/lora"}}.items():
        sweep = tiny.sweep_file(tmp_path, tmp_path, checkpoints=[source | {"base": base}])
        lakes.append(Lake(str(tmp_path / name)))
        code, out, err = shapelake("run", sweep, "--lake", lakes[-1].uri, "--backend", "inline")
        assert code == 0, (out, err)
    on_hub, local = map(measured, lakes)
    assert {row[1] for row in on_hub} == {"step1", "step2", "step3"}
    assert on_hub == local, "the digests, and so the cell ids, are those of the files"
    assert not list(scratch_root().glob("*/base_path"))


def test_an_adapter_on_the_hub_without_a_base_is_named_with_what_to_write(
    published: Path, adapters: Path, tmp_path: Path, shapelake
) -> None:
    sweep = tiny.sweep_file(tmp_path, tmp_path, checkpoints=[{"hub": "owner/lora"}])
    _, out, err = shapelake("plan", sweep, "--lake", tmp_path / "lake")
    assert "a peft adapter without a base model" in out + err
    with_base = tiny.sweep_file(tmp_path, tmp_path, checkpoints=[{"hub": "owner/lora", "base": "owner/base@v2"}])
    cell = make_plan(load_sweep(str(with_base)), Lake(str(tmp_path / "lake"))).cells[0]
    command = reproduction_command(cell)
    assert "owner/lora@step1" in command
    assert "--base owner/base@" in command
    assert "--tokenizer" not in command


def test_one_adapter_on_the_hub_is_measured_by_name(published: Path, adapters: Path, shapelake) -> None:
    words = ("measure", "owner/lora@step1", "--base", "owner/base@v2", "--corpus", "random-uniform")
    code, out, err = shapelake(*words, "--recipe", json.dumps(tiny.RECIPE), "--json")
    assert code == 0, err
    assert '"anisotropy"' in out
