"""Folders as trainers leave them: shards without an index, other formats named with their next step, tokenizers."""

import json
from pathlib import Path

import pytest

from pipeline.catalog.checkpoint_files import LocalFolder, has_tokenizer, list_weight_files, unloadable_reason
from pipeline.errors import CheckpointError
from pipeline.model import load_model
from pipeline.model.tokenizer import load_tokenizer


def folder_with(root: Path, *names: str) -> LocalFolder:
    for name in ("config.json", *names):
        path = root / name
        path.mkdir() if name.endswith("/") else path.write_text("{}")
    return LocalFolder(root)


@pytest.mark.parametrize(
    ("names", "found", "do"),
    [
        (("adapter_config.json", "adapter_model.safetensors"), "a peft adapter", "merge_and_unload"),
        (("zero_to_fp32.py", "latest", "global_step500/"), "DeepSpeed ZeRO", "python zero_to_fp32.py"),
        (("latest", "global_step500/"), "a DeepSpeed checkpoint", "deepspeed.utils.zero_to_fp32"),
        (("__0_0.distcp", ".metadata"), "a distributed checkpoint of torch", "dcp_to_torch"),
        (("pytorch_model_fsdp_0/", "optimizer_0/"), "a sharded FSDP checkpoint", "accelerate merge-weights"),
        (("mp_rank_00/",), "Megatron", "convert.py"),
        (("model.Q4.gguf",), "GGUF", "made from"),
        (("tf_model.h5",), "TensorFlow", "from_tf"),
        (("flax_model.msgpack",), "Flax", "from_flax"),
        (("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"), "neither", "Name a folder"),
    ],
)
def test_a_format_that_cannot_be_loaded_is_named_with_its_next_step(
    names: tuple[str, ...], found: str, do: str, tmp_path: Path
) -> None:
    files = folder_with(tmp_path, *names)
    assert found in str(unloadable_reason(files))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}))
    with pytest.raises(CheckpointError) as caught:
        load_model(tmp_path, "float32", "cpu")
    assert found in caught.value.found
    assert do in caught.value.do


@pytest.mark.parametrize(("stem", "suffix"), [("model", "safetensors"), ("pytorch_model", "bin")])
def test_shards_without_an_index_are_all_that_their_names_count(stem: str, suffix: str, tmp_path: Path) -> None:
    names = [f"{stem}-0000{number}-of-00003.{suffix}" for number in (1, 2, 3)]
    assert list_weight_files(folder_with(tmp_path, *names, f"{stem}-old.{suffix}")) == tuple(names)
    assert unloadable_reason(LocalFolder(tmp_path)) is None
    (tmp_path / names[1]).unlink()
    assert unloadable_reason(LocalFolder(tmp_path)) == f"1 of 3 shards absent: {names[1]}"


def test_shards_without_an_index_load_like_the_whole(tmp_path: Path) -> None:
    import torch

    from tests.support import tiny_models

    model = tiny_models.make("gpt2")
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    (tmp_path / "model.safetensors.index.json").unlink()
    loaded = load_model(tmp_path, "float32", "cpu").module.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize("cls", ["ByT5Tokenizer", "CanineTokenizer"])
def test_a_tokenizer_without_a_vocabulary_file_is_one(cls: str, tmp_path: Path) -> None:
    import transformers

    getattr(transformers, cls)().save_pretrained(tmp_path)
    assert has_tokenizer(LocalFolder(tmp_path))
    assert load_tokenizer(tmp_path).encode("ab")


@pytest.mark.parametrize("name", ["spiece.model", "source.spm", "tekken.json", "qwen.tiktoken", "tokenizer.4.0.0.json"])
def test_every_vocabulary_file_is_hashed(name: str, tmp_path: Path) -> None:
    from pipeline.catalog.checkpoint_files import list_tokenizer_files

    assert list_tokenizer_files(folder_with(tmp_path, name)) == (name,)
    assert has_tokenizer(LocalFolder(tmp_path))
