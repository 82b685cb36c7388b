"""Builders of small real checkpoints and a text, made within a second, for end-to-end tests."""

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedTokenizerFast

VOCABULARY = 258
SENTENCE = "the shape of a space in which some model thinks is not that of its words at all"
RECIPE = {"name": "tiny", "version": 1, "contexts": 8, "groups": 3, "context_tokens": 32, "kept_per_context": 16}


def tokenizer() -> PreTrainedTokenizerFast:
    """Tokenizer with one token per byte and two special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate(["[PAD]", "[MASK]", *alphabet])}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="[PAD]", mask_token="[MASK]")


def model(seed: int) -> GPTNeoXForCausalLM:
    """GPT-NeoX with two blocks of width 32 and random weights."""
    torch.manual_seed(seed)
    config = GPTNeoXConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    return GPTNeoXForCausalLM(config)


def checkpoint(folder: Path, seed: int) -> Path:
    model(seed).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def history(root: Path, steps: list[int]) -> Path:
    """Write a history whose checkpoint at step s has the weights of seed s."""
    for step in steps:
        checkpoint(root / f"step{step}", step)
    return root


def text(path: Path, characters: int = 20_000) -> Path:
    """Write English-like prose, much more than RECIPE needs."""
    words = SENTENCE.split()
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randint(len(words), (characters // 4,), generator=generator).tolist()
    path.write_text(" ".join(words[index] for index in chosen)[:characters])
    return path


def sweep_file(folder: Path, root: Path, **changes: object) -> Path:
    """Write a sweep of the history `root` on text, with `changes` to its fields."""
    text(folder / "prose.txt")
    fields = {
        "name": "test",
        "checkpoints": [{"local": str(root)}],
        "corpora": [{"text": "prose.txt"}],
        "recipe": RECIPE,
        "resources": {"cpus": 1},
        **changes,
    }
    path = folder / "sweep.yaml"
    path.write_text(json.dumps(fields))
    return path
