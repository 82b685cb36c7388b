"""Training of a small decoder and a small encoder on CPython's own documentation, saved at log-spaced steps."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.utils.logging import disable_progress_bar

from pipeline.demo.prose import split_prose, write_held_out_prose

SAVED_STEPS = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256)
WIDTH, LAYERS, HEADS, VOCAB_SIZE, CONTEXT_TOKENS = 64, 6, 4, 1024, 128
BATCH_SIZE, LEARNING_RATE, WARM_UP = 16, 2e-3, 20
MASK_SHARE = 0.15


def train_missing(folder: Path, console: Console) -> Path:
    """Train the histories that are missing in `folder`; return the file of the held-out text."""
    seen, _ = split_prose()
    held_out = write_held_out_prose(folder)
    missing = {name: make for name, make in MODEL_BUILDERS.items() if not (folder / name).is_dir()}
    if missing:
        disable_progress_bar()  # else transformers draws a bar for every saved file
        tokenizer = _tokenizer(seen)
        ids = torch.tensor(tokenizer.encode(seen, add_special_tokens=False, verbose=False))
        for name, make in missing.items():
            _train_history(folder / name, make(), tokenizer, ids, console)
    return held_out


MODEL_CONFIG: dict[str, Any] = dict(
    vocab_size=VOCAB_SIZE,
    hidden_size=WIDTH,
    num_hidden_layers=LAYERS,
    num_attention_heads=HEADS,
    intermediate_size=4 * WIDTH,
    max_position_embeddings=CONTEXT_TOKENS,
)


def _decoder() -> PreTrainedModel:
    return GPTNeoXForCausalLM(GPTNeoXConfig(**MODEL_CONFIG, use_cache=False))


def _encoder() -> PreTrainedModel:
    return BertForMaskedLM(BertConfig(**MODEL_CONFIG, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0))


MODEL_BUILDERS: dict[str, Callable[[], PreTrainedModel]] = {"demo-decoder": _decoder, "demo-encoder": _encoder}


def _tokenizer(text: str) -> PreTrainedTokenizerFast:
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=["[PAD]", "[MASK]"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator([text], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="[PAD]", mask_token="[MASK]")


def _train_history(
    folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, ids: Tensor, console: Console
) -> None:
    """Train a model, and save it at each of SAVED_STEPS; `folder` appears at the end, when all steps are saved."""
    partial = folder.with_name(f".{folder.name}")
    shutil.rmtree(partial, ignore_errors=True)
    torch.manual_seed(0)
    model.apply(model._init_weights)
    mask_id = tokenizer.get_vocab()["[MASK]"]
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
    ramp = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min((step + 1) / WARM_UP, 1.0))
    with Progress(
        TextColumn(f"training {folder.name}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console
    ) as bar:
        for step in bar.track(range(SAVED_STEPS[-1] + 1), total=SAVED_STEPS[-1] + 1):
            if step in SAVED_STEPS:
                model.save_pretrained(partial / f"step{step}")
                tokenizer.save_pretrained(partial / f"step{step}")
            loss = _loss(model, _batch(ids, generator), mask_id, generator)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            ramp.step()
    partial.rename(folder)


def _batch(ids: Tensor, generator: torch.Generator) -> Tensor:
    starts = torch.randint(len(ids) - CONTEXT_TOKENS, (BATCH_SIZE,), generator=generator)
    return torch.stack([ids[start : start + CONTEXT_TOKENS] for start in starts.tolist()])


def _loss(model: PreTrainedModel, ids: Tensor, mask_id: int, generator: torch.Generator) -> Tensor:
    """Return the next-token loss of a decoder, or the masked-token loss of an encoder."""
    if isinstance(model, GPTNeoXForCausalLM):
        return model(input_ids=ids, labels=ids).loss
    masked = torch.rand(ids.shape, generator=generator) < MASK_SHARE
    return model(input_ids=ids.masked_fill(masked, mask_id), labels=ids.masked_fill(~masked, -100)).loss
