"""Histories of LoRA adapters: identity, plan, commands, and the same numbers as those of merged checkpoints."""

import hashlib
import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from pipeline.catalog.digests import FileStates, require_unchanged
from pipeline.catalog.discovery import discover_histories, find_base
from pipeline.catalog.local_histories import inspect_checkpoint
from pipeline.errors import FilesChangedError, UsageError
from pipeline.hashing import digest_file_hashes, file_sha256
from pipeline.spec import Local
from pipeline.strict_model import canonical_json
from tests.support import lora_folders as lora
from tests.support import tiny_checkpoints as tiny

ATTENTION = "gpt_neox.layers.1.attention.query_key_value"
SHAPES = {ATTENTION: (96, 32)}


def adapter(folder: Path, seed: int, **fields: object) -> Path:
    return lora.write(folder, lora.lora_tensors(SHAPES, seed=seed), **fields)


def history(root: Path, steps: tuple[int, ...] = (1, 2)) -> Path:
    for step in steps:
        adapter(root / f"checkpoint-{step}", step)
    return root


def digest(*pair: str) -> str:
    return hashlib.blake2b(canonical_json(list(pair)).encode(), digest_size=32).hexdigest()


def test_digests_are_those_of_base_and_adapter(tmp_path: Path) -> None:
    base, folder = tiny.checkpoint(tmp_path / "base", 0), adapter(tmp_path / "lora" / "step5", 1)
    own = {name: file_sha256(folder / name) for name in ("adapter_model.safetensors", "adapter_config.json")}
    whole, found = inspect_checkpoint(base), inspect_checkpoint(folder, base=inspect_checkpoint(base))
    pairs = {name: digest_file_hashes([(name, sha)]) for name, sha in own.items()}
    assert found.weights_digest == digest(whole.weights_digest, pairs["adapter_model.safetensors"])
    assert found.config_digest == digest(whole.config_digest, pairs["adapter_config.json"])
    assert (found.tokenizer_digest, found.tokenizer_path) == (whole.tokenizer_digest, str(base))
    assert (found.model, found.step, found.kinds, found.n_params) == ("lora", 5, whole.kinds, whole.n_params)


def test_a_tokenizer_beside_the_adapter_is_taken(tmp_path: Path) -> None:
    base, folder = tiny.checkpoint(tmp_path / "base", 0), adapter(tmp_path / "step5", 1)
    (folder / "tokenizer.json").write_bytes((base / "tokenizer.json").read_bytes() + b"\n")
    found = inspect_checkpoint(folder, base=inspect_checkpoint(base))
    assert found.tokenizer_path == str(folder)
    assert found.tokenizer_digest != inspect_checkpoint(base).tokenizer_digest
    other = tiny.checkpoint(tmp_path / "other", 3)
    assert inspect_checkpoint(folder, str(other), inspect_checkpoint(base)).tokenizer_path == str(other)


def test_a_folder_with_whole_weights_keeps_its_identity(tmp_path: Path) -> None:
    folder = tiny.checkpoint(tmp_path / "step1", 0)
    before = inspect_checkpoint(folder)
    adapter(folder, 1)
    assert inspect_checkpoint(folder) == before
    assert inspect_checkpoint(folder, base=inspect_checkpoint(tiny.checkpoint(tmp_path / "base", 5))) == before


@pytest.mark.parametrize("changed", ["base/model.safetensors", "base/config.json", "step1/adapter_config.json"])
def test_a_change_of_base_or_adapter_after_the_plan_is_noticed(changed: str, tmp_path: Path) -> None:
    base = inspect_checkpoint(tiny.checkpoint(tmp_path / "base", 0))
    found = inspect_checkpoint(adapter(tmp_path / "step1", 1), base=base)
    require_unchanged(found)
    states = FileStates.now(found)
    (tmp_path / changed).write_bytes((tmp_path / changed).read_bytes() + b" ")
    with pytest.raises(FilesChangedError, match="changed after the plan"):
        require_unchanged(found)
    with pytest.raises(FilesChangedError, match="was written while the checkpoint was measured"):
        states.require_same()


def test_a_history_of_adapters_has_the_numbers_of_its_merged_checkpoints(tmp_path: Path, shapelake) -> None:
    """`run` over adapters, with a relative base, and over the same weights merged into files."""
    base = tiny.checkpoint(tmp_path / "base", 0)
    history(tmp_path / "lora")
    for step in (1, 2):
        tensors = lora.lora_tensors(SHAPES, seed=step)
        a, b = (tensors[f"{lora.PREFIX}{ATTENTION}.lora_{x}.weight"] for x in "AB")
        lora.merge_into_files(base, tmp_path / "whole" / f"checkpoint-{step}", {f"{ATTENTION}.weight": 3 * (b @ a)})
    sources = [{"local": "lora", "base": "base"}, {"local": "whole"}]
    sweep = tiny.sweep_file(tmp_path, tmp_path, checkpoints=sources)
    assert shapelake("run", sweep, "--lake", tmp_path / "lake", "--backend", "inline")[0] == 0
    rows = pq.read_table(tmp_path / "lake" / "cells").to_pylist()
    by_label: dict[tuple[str, str], list[float]] = {}
    for row in sorted(rows, key=lambda row: row["layer"]):
        by_label.setdefault((row["model"], row["revision"]), []).append(row["anisotropy"])
    assert len({row["cell_id"] for row in rows}) == 4
    for step in (1, 2):
        merged = by_label["whole", f"checkpoint-{step}"]
        assert by_label["lora", f"checkpoint-{step}"] == pytest.approx(merged, rel=1e-5)
    assert by_label["lora", "checkpoint-1"] != by_label["lora", "checkpoint-2"]
    code, out, _ = shapelake("plan", sweep, "--lake", tmp_path / "lake", "--json")
    assert (code, json.loads(out)["to_run"]) == (0, [])


def test_a_plan_says_which_checkpoints_lack_a_base(tmp_path: Path, shapelake) -> None:
    history(tmp_path / "lora")
    tiny.checkpoint(tmp_path / "lora" / "checkpoint-3", 0)
    sweep = tiny.sweep_file(tmp_path, tmp_path, checkpoints=[{"local": "lora"}])
    code, out, _ = shapelake("plan", sweep, "--lake", tmp_path / "lake")
    assert code == 0
    assert "checkpoint-1 and checkpoint-2: a peft adapter without a base model" in " ".join(out.split())
    code, out, err = shapelake("run", sweep, "--lake", tmp_path / "lake", "--backend", "inline")
    assert code == 1
    assert "Name its base model: base: owner/base beside local or hub" in " ".join((out + err).split())


def test_a_plan_says_which_adapters_cannot_be_merged(tmp_path: Path) -> None:
    tiny.checkpoint(tmp_path / "base", 0)
    adapter(tmp_path / "lora" / "step1", 1, peft_type="LOHA")
    adapter(tmp_path / "lora" / "step2", 1)
    (found,) = discover_histories(Local(local=str(tmp_path / "lora"), base=str(tmp_path / "base")))
    assert [revision.state for revision in found.revisions] == ["NO_WEIGHTS", "NEW"]
    assert "peft_type is 'LOHA'" in str(found.revisions[0].state_reason)


@pytest.mark.parametrize(
    ("name", "found"),
    [("/nowhere/base", "no such folder"), ("./base", "no such folder"), ("lora", "an adapter too")],
)
def test_a_base_that_is_none_is_refused(name: str, found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter(tmp_path / "lora", 1)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=found):
        find_base(name)


def test_paths_of_a_base_are_relative_to_the_sweep_and_repos_are_not(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    resolved = [Local(local="lora", base=name).resolve_paths(tmp_path).base for name in ("base", "owner/repo@main")]
    assert resolved == [str(tmp_path / "base"), "owner/repo@main"]
    assert Local(local="lora", base="../absent").resolve_paths(tmp_path).base == str(tmp_path.parent / "absent")


def test_measure_watch_and_audit_take_a_base(tmp_path: Path, shapelake) -> None:
    base, root = tiny.checkpoint(tmp_path / "base", 0), history(tmp_path / "lora")
    shutil.copytree(root / "checkpoint-2", root / "checkpoint-3")
    text, recipe = f"text:{tiny.text(tmp_path / 'prose.txt')}", yaml.safe_dump(tiny.RECIPE, default_flow_style=True)
    common = ("--corpus", text, "--recipe", recipe, "--base", base)
    code, out, _ = shapelake("measure", root / "checkpoint-1", *common, "--json")
    assert code == 0
    assert json.loads(out)[0]["revision"] == "checkpoint-1"
    code, out, _ = shapelake("watch", root, *common, "--once", "--every", "0", "--lake", tmp_path / "lake")
    assert code == 0
    assert "checkpoint-3" in out
    code, out, _ = shapelake("audit", root, "--base", base, "--lake", tmp_path / "lake", "--json")
    (found,) = json.loads(out)
    assert [revision["state"] for revision in found["revisions"]] == ["UNCHANGED"] * 3
    assert [finding["what"] for finding in found["findings"]] == ["equals-final"]
    code, _, err = shapelake("measure", root / "checkpoint-1", *common[:4])
    assert (code, err.count("\n")) == (1, 2)
    assert "adapter" in err


def test_weights_beside_an_adapter_are_flagged(tmp_path: Path, shapelake) -> None:
    folder = adapter(tiny.checkpoint(tmp_path / "step1", 0), 1)
    text, recipe = f"text:{tiny.text(tmp_path / 'prose.txt')}", yaml.safe_dump(tiny.RECIPE, default_flow_style=True)
    _, out, _ = shapelake("measure", folder, "--corpus", text, "--recipe", recipe, "--json")
    assert all("adapter_ignored" in row["flags"] for row in json.loads(out))
