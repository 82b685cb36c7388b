"""Weight formats that transformers does not load, each with a file name pattern and the command that converts it."""

from collections.abc import Collection
from fnmatch import fnmatchcase

FOREIGN_FORMATS: dict[str, tuple[str, str]] = {
    "zero_to_fp32.py": (
        "a DeepSpeed ZeRO checkpoint ({})",
        "Convert it: python zero_to_fp32.py . OUT --safe_serialization, then copy config.json to OUT",
    ),
    "global_step*": (
        "a DeepSpeed checkpoint ({})",
        "Convert it: python -m deepspeed.utils.zero_to_fp32 FOLDER OUT --safe_serialization, then copy config.json",
    ),
    "*.distcp": (
        "a distributed checkpoint of torch ({})",
        "Convert it: python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER pytorch_model.bin",
    ),
    "pytorch_model_fsdp_*": (
        "a sharded FSDP checkpoint ({})",
        "Convert it: accelerate merge-weights FOLDER/{} OUT, then copy config.json to OUT",
    ),
    "mp_rank_*": (
        "a Megatron checkpoint ({})",
        "Convert it to a Hugging Face folder with tools/checkpoint/convert.py of Megatron-LM",
    ),
    "*.gguf": (
        "GGUF weights ({}), which are usually quantised",
        "Measure the checkpoint that they were made from",
    ),
    "*.msgpack": (
        "Flax weights ({})",
        "Convert them with transformers 4: AutoModel.from_pretrained(FOLDER, from_flax=True).save_pretrained(OUT)",
    ),
    "tf_model.h5": (
        "TensorFlow weights ({})",
        "Convert them with transformers 4: AutoModel.from_pretrained(FOLDER, from_tf=True).save_pretrained(OUT)",
    ),
    "consolidated*": (
        "weights in their authors' own format ({})",
        "Fetch the version in the format of transformers, or convert it with the script of the model in transformers",
    ),
    "*.ckpt": (
        "a checkpoint of a trainer ({})",
        "Save its state dict as pytorch_model.bin: torch.save(torch.load(PATH)['state_dict'], 'pytorch_model.bin')",
    ),
    "*.nemo": ("a NeMo checkpoint ({})", "Convert it to a Hugging Face folder with the exporter of NeMo"),
    "*.onnx": ("an ONNX model ({})", "Measure the checkpoint that it was exported from"),
    "*.safetensors": ("a file under another name ({})", "Rename it to model.safetensors if it has the whole model"),
    "*.bin": ("a file under another name ({})", "Rename it to pytorch_model.bin if it has the whole model"),
    "*.pt": ("a file under another name ({})", "Rename it to pytorch_model.bin if it has the whole model"),
    "*.pth": ("a file under another name ({})", "Rename it to pytorch_model.bin if it has the whole model"),
}
"""(description of unreadable weights, next step) by the pattern of a file or folder name. The first pattern that
matches a name is reported; {} stands for this name."""
TRAINER_FILES = ("optimizer*", "scheduler*", "rng_state*", "training_args.bin", "scaler*")
"""Patterns of the names of files that a trainer saves beside the weights."""


def describe_foreign_format(names: Collection[str]) -> tuple[str, str] | None:
    """Return the description and next step of the first pattern that matches a name; None if no pattern does."""
    candidates = sorted(name for name in names if not any(fnmatchcase(name, trainer) for trainer in TRAINER_FILES))
    for pattern, (what, do) in FOREIGN_FORMATS.items():
        if match := next((name for name in candidates if fnmatchcase(name, pattern)), None):
            return what.replace("{}", match), do.replace("{}", match)
    return None
