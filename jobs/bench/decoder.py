"""Decoder with random weights, saved as a checkpoint folder that transformers loads."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar


def save_decoder(folder: Path, layers: int, dim: int, vocabulary: int, positions: int, seed: int = 0) -> Path:
    """Save a GPT-2 of this shape with 64 dimensions per head, and a tokenizer of `vocabulary` words."""
    disable_progress_bar()
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=vocabulary,
        n_positions=positions,
        n_embd=dim,
        n_layer=layers,
        n_head=max(dim // 64, 1),
        bos_token_id=None,
        eos_token_id=None,
    )
    GPT2LMHeadModel(config).save_pretrained(folder)
    words = Tokenizer(models.WordLevel({f"w{index}": index for index in range(vocabulary)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(folder)
    return folder
