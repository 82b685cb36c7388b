"""Every causal and masked class of transformers with a tiny random config, saved as a checkpoint folder."""

from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PretrainedConfig

SUFFIXES = ("ForCausalLM", "LMHeadModel", "ForMaskedLM", "ForPreTraining")
SIZES: dict[str, int] = {
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input"), 99),
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "dim", "emb_dim", "embedding_size"), 32),
    **dict.fromkeys(("num_hidden_layers", "n_layers", "n_layer", "num_layers", "encoder_layers", "decoder_layers"), 3),
    **dict.fromkeys(("num_attention_heads", "n_heads", "n_head", "num_heads", "num_decoder_layers"), 4),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads"), 2),
    **dict.fromkeys(("rotary_dim",), 8),
    **dict.fromkeys(
        ("intermediate_size", "d_inner", "n_inner", "ffn_dim", "d_ff", "hidden_dim", "ffn_hidden_size"), 48
    ),
    **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim", "moe_intermediate_size", "intermediate_size_mlp"), 48),
    **dict.fromkeys(("shared_expert_intermediate_size", "shared_intermediate_size"), 48),
    **dict.fromkeys(("head_dim", "d_kv", "d_head", "v_head_dim", "qk_nope_head_dim", "global_head_dim"), 8),
    **dict.fromkeys(("qk_rope_head_dim", "kv_lora_rank", "q_lora_rank", "mamba_d_head", "mamba_head_dim"), 8),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_topk", "moe_k", "n_group", "topk_group"), 2),
    **dict.fromkeys(("max_position_embeddings", "n_positions"), 128),
    **dict.fromkeys(("hidden_size_per_layer_input", "lru_width"), 32),
    **dict.fromkeys(("mamba_n_heads", "mamba_num_heads", "linear_num_key_heads", "linear_num_value_heads"), 8),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim", "state_size", "mamba_d_state"), 8),
}
"""Sizes by the names that configs give them."""


def class_names() -> list[str]:
    """Return the names of all classes with a causal or masked head, in alphabetical order."""
    return sorted(name for name in dir(transformers) if name.endswith(SUFFIXES))


def tiny_config(cls: Any) -> PretrainedConfig:
    """Return the default config of a class with small sizes; token ids beyond the vocabulary become small ones."""
    config = cls.config_class()
    fields = {name: size for name, size in SIZES.items() if hasattr(config, name) and name in _stated(config)}
    if "kv_lora_rank" in fields:
        fields["num_key_value_heads"] = fields["num_attention_heads"]  # latent attention has no groups
    named = [name for name, value in _stated(config).items() if name.endswith("_token_id") and _is_unfit(value)]
    ids = {name: 3 + number for number, name in enumerate(named)}
    lists = {n: v[:3] for n, v in _stated(config).items() if isinstance(v, list) and len(v) == config.num_hidden_layers}
    return cls.config_class(**{**lists, **ids, **fields})


def save(name: str, folder: Path) -> Path:
    """Save a checkpoint of the class with weights large enough that each token moves the others."""
    cls = getattr(transformers, name)
    torch.manual_seed(0)
    model = cls(tiny_config(cls))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return folder


def _stated(config: PretrainedConfig) -> dict[str, Any]:
    return config.to_dict()


def _is_unfit(value: Any) -> bool:
    """Return True for an id beyond the small vocabulary, and for several."""
    return isinstance(value, list) or (isinstance(value, int) and value >= SIZES["vocab_size"])
