"""Decoder with random weights: built in memory, or saved as a checkpoint folder that transformers loads."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

HEAD_DIM = 64


def build_decoder(
    layers: int, dim: int, vocabulary: int, positions: int, device: str, dtype: torch.dtype, seed: int = 0
) -> GPT2LMHeadModel:
    """Build a GPT-2 of this shape with 64 dimensions per head on the device, in evaluation mode.

    Weights are drawn in `dtype` on the device: 1.3B parameters never pass through the host or a file.
    """
    torch.manual_seed(seed)
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            return GPT2LMHeadModel(_config(layers, dim, vocabulary, positions)).eval()
    finally:
        torch.set_default_dtype(default)


def build_tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """Build a tokenizer of `vocabulary` words."""
    words = Tokenizer(models.WordLevel({f"w{index}": index for index in range(vocabulary)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=words)


def save_decoder(folder: Path, layers: int, dim: int, vocabulary: int, positions: int, seed: int = 0) -> Path:
    """Save a decoder in float32 with its tokenizer."""
    disable_progress_bar()
    build_decoder(layers, dim, vocabulary, positions, "cpu", torch.float32, seed).save_pretrained(folder)
    build_tokenizer(vocabulary).save_pretrained(folder)
    return folder


def _config(layers: int, dim: int, vocabulary: int, positions: int) -> GPT2Config:
    return GPT2Config(
        vocab_size=vocabulary,
        n_positions=positions,
        n_embd=dim,
        n_layer=layers,
        n_head=max(dim // HEAD_DIM, 1),
        bos_token_id=None,
        eos_token_id=None,
    )
