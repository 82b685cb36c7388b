"""Tiny random checkpoint, with which the canary task tests that a machine can load and run a model."""

import json
from pathlib import Path

import torch
from transformers import GPT2Config, GPT2LMHeadModel

VOCABULARY_SIZE = 64


def write_tiny_checkpoint(folder: Path) -> None:
    """Write a GPT-2 of two blocks of width 16 with seeded random weights, and a tokenizer."""
    config = GPT2Config(vocab_size=VOCABULARY_SIZE, n_positions=32, n_embd=16, n_layer=2, n_head=2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        GPT2LMHeadModel(config).save_pretrained(folder)
    vocabulary = {f"w{number}": number for number in range(VOCABULARY_SIZE)}
    tokenizer = {"version": "1.0", "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "w0"}}
    empty = dict.fromkeys(("truncation", "padding", "normalizer", "pre_tokenizer", "post_processor", "decoder"))
    (folder / "tokenizer.json").write_text(json.dumps({**tokenizer, **empty, "added_tokens": []}))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "w0"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
