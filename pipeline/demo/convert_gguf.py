"""Program that converts a GGUF file to a checkpoint folder: `python -m pipeline.demo.convert_gguf FILE FOLDER`.

It runs in a process of its own, with the package `gguf` on PYTHONPATH.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging


def convert_gguf(source: Path, target: Path) -> None:
    """Write weights (dequantised to float32), config and tokenizer as `save_pretrained` does."""
    auto: Any = AutoModelForCausalLM
    model = auto.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32, trust_remote_code=False)
    # A model that was read from GGUF still counts as quantised, and `save_pretrained` refuses those.
    del model.config.quantization_config
    model.hf_quantizer, model.is_quantized = None, False
    model.save_pretrained(target)
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name, trust_remote_code=False)
    tokenizer.save_pretrained(target)


if __name__ == "__main__":
    logging.disable_progress_bar()
    convert_gguf(Path(sys.argv[1]), Path(sys.argv[2]))
