"""Configuration and class of a checkpoint, from its config.json alone."""

import re
from pathlib import Path
from typing import Any, cast

import transformers
from transformers import CONFIG_MAPPING, MODEL_MAPPING, PretrainedConfig, PreTrainedModel

from pipeline.catalog.architectures import infer_kinds
from pipeline.errors import CheckpointError
from pipeline.model.file_errors import as_checkpoint_error
from pipeline.spec import ModelKind

COUNT_FIELDS = re.compile(r"(num|n)_.*(layer|expert)s?|.*_layers")
MAX_COUNT = 10_000
"""Maximum value of a field that counts layers or experts. A larger model would take hours to build, and is refused."""
RUNTIME_FIELDS = {
    *("return_dict", "use_return_dict", "torchscript", "output_hidden_states", "output_attentions", "use_cache"),
    *("attn_implementation", "_attn_implementation", "_attn_implementation_internal"),
    *("experts_implementation", "_experts_implementation", "_experts_implementation_internal"),
    *("fusion_config", "kernel_config", "use_kernels", "configuration_files", "transformers_weights"),
}
"""Fields of config.json that are ignored. They change no weight, but set the form of the output, kernels, and names of
other files to read; results must depend neither on installed packages nor on files without a checksum."""
TEXT_INPUTS = ("input_ids", "inputs")
"""Names that the first input has in models that read text."""
FLOAT_KEY = "__float__"
"""Key under which transformers writes a number that JSON cannot express: {"__float__": "Infinity"}."""
ALWAYS_DEQUANTISED = "mxfp4"
"""The only accepted quantisation, because transformers can dequantise it without any other package."""


def read_kinds(folder: Path, raw: dict[str, Any]) -> tuple[ModelKind, ...]:
    """Return the kinds of the model's layer stacks; CheckpointError if config.json does not determine them."""
    found = infer_kinds(raw)
    if not found:
        raise CheckpointError(
            f"checkpoint {folder}",
            f"config.json has unknown model_type {raw.get('model_type')!r} with class {raw.get('architectures')}",
            "Add the model_type to pipeline/catalog/architectures.py",
        )
    return found


def check_fields(folder: Path, raw: dict[str, Any]) -> None:
    """Raise CheckpointError for invalid values of config.json that transformers does not check."""
    names = raw.get("architectures")
    wrong = {} if names is None or _is_list_of_text(names) else {"architectures": "not a list of class names"}
    counts = {name: value for name, value in raw.items() if COUNT_FIELDS.fullmatch(name) and isinstance(value, int)}
    wrong |= {name: f"not from 0 to {MAX_COUNT:,}" for name, value in counts.items() if not 0 <= value <= MAX_COUNT}
    for name, problem in wrong.items():
        raise CheckpointError(f"checkpoint {folder}", f"config.json: field {name!r} is {problem}", "Fix that field")
    _check_quantisation(folder, raw)


def build_config(folder: Path, raw: dict[str, Any]) -> PretrainedConfig:
    """Return the configuration that `raw`, the parsed config.json, describes; no other file is read."""
    model_type = str(raw.get("model_type"))
    if model_type not in CONFIG_MAPPING:
        found = "which needs remote code (auto_map)" if "auto_map" in raw else "which transformers does not have"
        raise CheckpointError(
            f"checkpoint {folder}",
            f"config.json has model_type {model_type!r}, {found}",
            "Convert it to a transformers class; code from a checkpoint is never run",
        )
    with as_checkpoint_error(
        f"checkpoint {folder}", "bad config.json", "Fix the field of config.json that the text in brackets is about"
    ):
        config = CONFIG_MAPPING[model_type].from_dict(_without_runtime_fields(raw))
    config.use_cache = False
    return config


def find_class(folder: Path, config: PretrainedConfig) -> type[PreTrainedModel]:
    """Return the first class in `architectures` of config.json; without that field, the base class of the model type.

    Raises:
        CheckpointError: transformers lacks the class, or the class does not read text.
    """
    if not config.architectures:
        return cast(type[PreTrainedModel], MODEL_MAPPING[type(config)])
    name = config.architectures[0]
    cls = getattr(transformers, name, None)
    if cls is None:
        raise CheckpointError(
            f"checkpoint {folder}",
            f"class {name}, which transformers {transformers.__version__} does not have",
            "Write a transformers class into `architectures` in config.json, or upgrade transformers",
        )
    if (takes := str(getattr(cls, "main_input_name", "input_ids"))) not in TEXT_INPUTS:
        raise CheckpointError(
            f"checkpoint {folder}",
            f"class {name} takes {takes}, not text",
            "Leave it out: only models of text are measured",
        )
    return cls


def _without_runtime_fields(value: Any) -> Any:
    """Return a copy of parsed JSON without RUNTIME_FIELDS at any depth, and with numbers from FLOAT_KEY decoded.

    If the config has a quantisation, its `dequantize` is set.
    """
    if isinstance(value, list):
        return [_without_runtime_fields(inner) for inner in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {FLOAT_KEY}:
        return float(value[FLOAT_KEY])
    kept = {name: _without_runtime_fields(inner) for name, inner in value.items() if name not in RUNTIME_FIELDS}
    if isinstance(quantisation := kept.get("quantization_config"), dict):
        quantisation["dequantize"] = True
    return kept


def _check_quantisation(folder: Path, raw: dict[str, Any]) -> None:
    """Raise CheckpointError for quantised weights, because results would depend on the installed kernels."""
    for part in (raw, *(value for value in raw.values() if isinstance(value, dict))):
        found = part.get("quantization_config") or part.get("compression_config")
        method = found.get("quant_method") if isinstance(found, dict) else found
        if found and method != ALWAYS_DEQUANTISED:
            raise CheckpointError(
                f"checkpoint {folder}",
                f"config.json: 'quantization_config' says that the weights are quantised ({method})",
                "Measure the unquantised checkpoint, or save the model again after model.dequantize()",
            )


def _is_list_of_text(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)
