"""Model kinds and norm placement derived from config.json without loading the model."""

import json
from typing import Any, Literal, NamedTuple

from pipeline.spec import ModelKind

Norm = Literal["pre", "post", "sublayer-post", "unknown"]

DECODER: tuple[ModelKind, ...] = ("decoder",)
ENCODER: tuple[ModelKind, ...] = ("encoder",)
ENCODER_DECODER: tuple[ModelKind, ...] = ("encdec-encoder", "encdec-decoder")

MASKED_CLASS_SUFFIXES = ("ForMaskedLM", "ForPreTraining", "WithLMHeadModel")
CLASS_SUFFIXES: dict[tuple[str, ...], tuple[ModelKind, ...]] = {
    ("ForConditionalGeneration",): ENCODER_DECODER,
    ("EncoderModel",): ("encdec-encoder",),
    MASKED_CLASS_SUFFIXES: ENCODER,
    ("ForCausalLM", "LMHeadModel", "DoubleHeadsModel"): DECODER,
}
"""Model kinds by the suffixes of the class names in `architectures`, a field of config.json. The name of a base class
such as GPT2Model has none of these suffixes, because a base class does not determine the kind."""


class Architecture(NamedTuple):
    kinds: tuple[ModelKind, ...]
    norm: Norm


def _rows(kinds: tuple[ModelKind, ...], norm: Norm, types: str) -> dict[str, Architecture]:
    return dict.fromkeys(types.split(), Architecture(kinds, norm))


ARCHITECTURES: dict[str, Architecture] = {
    **_rows(
        DECODER,
        "pre",
        "apertus bloom codegen cohere falcon gemma gpt2 gpt_bigcode gpt_neo gpt_neox gpt_neox_japanese gptj granite"
        " llama mamba mamba2 mistral mixtral modernbert-decoder mpt olmo olmoe opt persimmon phi phi3 qwen2 qwen2_moe"
        " qwen3 qwen3_moe rwkv smollm3 stablelm starcoder2 xglm",
    ),
    **_rows(DECODER, "post", "openai-gpt xlnet"),
    **_rows(DECODER, "sublayer-post", "olmo2 olmo3"),
    **_rows(DECODER, "unknown", "gemma2 gemma3_text"),  # norms on both sides of each sublayer
    **_rows(ENCODER, "pre", "eurobert modernbert roberta-prelayernorm xlm-roberta-xl"),
    **_rows(ENCODER, "post", "albert bert camembert deberta deberta-v2 distilbert electra mpnet roberta xlm-roberta"),
    **_rows(ENCODER_DECODER, "pre", "mbart mt5 pegasus t5 umt5"),
    **_rows(ENCODER_DECODER, "post", "bart marian"),
}
"""Architecture by `model_type`. The norm placements are:

- `pre`: the norm is on a sublayer's input; the residual stream is never normalised.
- `post`: the norm is on the residual stream itself.
- `sublayer-post`: the norm is on a sublayer's output, before the output is added to the residual stream (OLMo 2,
  arXiv 2501.00656).
- `unknown`: none of the three.
"""


DIRECTION_FIELDS = {
    **dict.fromkeys(("bert", "bert-generation", "big_bird", "camembert", "data2vec-text", "electra"), "is_decoder"),
    **dict.fromkeys(("ernie", "megatron-bert", "rembert", "roberta", "roberta-prelayernorm"), "is_decoder"),
    **dict.fromkeys(("roc_bert", "roformer", "xlm-roberta", "xlm-roberta-xl", "xmod"), "is_decoder"),
    **dict.fromkeys(("xlm", "flaubert"), "causal"),
}
"""Name of the field of config.json that is true if attention is causal, by model type. For these types, the same class
can be an encoder or a decoder, so the class name does not determine the kind."""
TEXT_PARTS = ("text_config", "llm_config", "language_config")


def infer_kinds(config: dict[str, Any]) -> tuple[ModelKind, ...]:
    """Return the kinds of the model that `config` (a parsed config.json) describes; an empty tuple if unknown.

    The class names in `architectures` take precedence over `model_type`; fields that give the direction of the
    attention take precedence over both. For a multimodal model, the kind of its text part is returned.
    """
    kinds, text = _class_kinds(config), _text_part(config)
    if kinds == ENCODER_DECODER and text is not config and not _is_encoder_decoder(config, text):
        kinds = DECODER
    if kinds not in (DECODER, ENCODER):
        return kinds
    if (field := DIRECTION_FIELDS.get(str(text.get("model_type")))) is not None:
        return DECODER if text.get(field) is True else ENCODER
    return ENCODER if _reads_both_directions(text) else kinds


def _class_kinds(config: dict[str, Any]) -> tuple[ModelKind, ...]:
    names = config.get("architectures")
    for name in names if isinstance(names, list) else ():
        for suffixes, kinds in CLASS_SUFFIXES.items():
            if str(name).endswith(suffixes):
                return kinds
    known = _lookup(config)
    return known.kinds if known else ()


def _text_part(config: dict[str, Any]) -> dict[str, Any]:
    """Return the config of the text part of a multimodal model; for any other model, return the whole config."""
    return next((part for name in TEXT_PARTS if isinstance(part := config.get(name), dict)), config)


def _is_encoder_decoder(config: dict[str, Any], text: dict[str, Any]) -> bool:
    return config.get("is_encoder_decoder") is True or text.get("is_encoder_decoder") is True


def _reads_both_directions(text: dict[str, Any]) -> bool:
    return text.get("is_causal") is False or text.get("use_bidirectional_attention") in (True, "all")


def parse_config(data: bytes) -> dict[str, Any]:
    """Return the fields of a config.json; an empty dict if the bytes are not a JSON object.

    No error is raised for invalid bytes, because loading the model reports the reason.
    """
    try:
        config = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return config if isinstance(config, dict) else {}


BLOCK_COUNT_FIELDS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")


def count_blocks(config: dict[str, Any]) -> int | None:
    """Return the number of blocks that a config states; None if it has no such field."""
    return next((config[name] for name in BLOCK_COUNT_FIELDS if isinstance(config.get(name), int)), None)


def bytes_per_parameter(config: dict[str, Any]) -> int:
    """Return the bytes per stored parameter: 2 for float16 and bfloat16, else 4 (also if `config` names no dtype)."""
    stored = str(config.get("dtype") or config.get("torch_dtype") or "float32")
    return 2 if stored.removeprefix("torch.") in ("float16", "bfloat16") else 4


def norm_placement(config: dict[str, Any]) -> Norm:
    """Return the norm placement in the blocks of the model; "unknown" if ARCHITECTURES lacks its `model_type`."""
    if config.get("model_type") == "opt" and not config.get("do_layer_norm_before", True):
        return "post"  # only opt-350m
    known = _lookup(config)
    return known.norm if known else "unknown"


def _lookup(config: dict[str, Any]) -> Architecture | None:
    return ARCHITECTURES.get(str(config.get("model_type")))
