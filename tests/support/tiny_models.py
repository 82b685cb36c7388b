"""Tiny models with random weights, one per architecture: 3 blocks, width 32, saved as checkpoint folders."""

from pathlib import Path
from typing import Any

import torch
import transformers

VOCAB = 99

_WIDTH = dict(vocab_size=VOCAB, hidden_size=32, num_hidden_layers=3, num_attention_heads=4)
_BODY = dict(**_WIDTH, intermediate_size=48, max_position_embeddings=64)
_ROTARY = dict(**_BODY, pad_token_id=None, bos_token_id=None, eos_token_id=None)
_MODERNBERT = dict(**_BODY, pad_token_id=0, cls_token_id=1, sep_token_id=2, bos_token_id=1, eos_token_id=2)
_OPT = dict(**_WIDTH, ffn_dim=48, max_position_embeddings=64)

CLASSES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2LMHeadModel", dict(vocab_size=VOCAB, n_embd=32, n_layer=3, n_head=4, n_positions=64)),
    "gpt_neox": ("GPTNeoXForCausalLM", _ROTARY),
    "llama": ("LlamaForCausalLM", _ROTARY),
    "olmo": ("OlmoForCausalLM", _ROTARY),
    "olmo2": ("Olmo2ForCausalLM", _ROTARY),
    "olmo3": ("Olmo3ForCausalLM", {**_ROTARY, "num_key_value_heads": 2}),
    "qwen2": ("Qwen2ForCausalLM", {**_ROTARY, "num_key_value_heads": 4}),
    "mistral": ("MistralForCausalLM", {**_ROTARY, "num_key_value_heads": 2}),
    "gemma2": ("Gemma2ForCausalLM", {**_ROTARY, "num_key_value_heads": 2, "final_logit_softcapping": 0.5}),
    "opt": ("OPTForCausalLM", dict(**_OPT, word_embed_proj_dim=32)),
    "opt-350m": ("OPTForCausalLM", dict(**_OPT, word_embed_proj_dim=16, do_layer_norm_before=False)),
    "bloom": ("BloomForCausalLM", dict(vocab_size=VOCAB, hidden_size=32, n_layer=3, n_head=4)),
    "falcon": ("FalconForCausalLM", _WIDTH),
    "mamba": ("MambaForCausalLM", dict(vocab_size=VOCAB, hidden_size=32, num_hidden_layers=3, state_size=4)),
    "mamba2": (
        "Mamba2ForCausalLM",
        dict(vocab_size=VOCAB, hidden_size=32, num_hidden_layers=3, state_size=4, num_heads=8, head_dim=8, n_groups=2),
    ),
    "modernbert-decoder": ("ModernBertDecoderForCausalLM", _MODERNBERT),
    "bert": ("BertForMaskedLM", _BODY),
    "bert-pretraining": ("BertForPreTraining", _BODY),
    "roberta": ("RobertaForMaskedLM", {**_BODY, "max_position_embeddings": 66}),
    "albert": ("AlbertForMaskedLM", dict(**_BODY, embedding_size=16)),
    "deberta": ("DebertaForMaskedLM", {**_BODY, "relative_attention": True, "pos_att_type": "c2p|p2c"}),
    "deberta-v2": ("DebertaV2ForMaskedLM", {**_BODY, "relative_attention": True, "pos_att_type": "c2p|p2c"}),
    "deberta-v2-conv": ("DebertaV2ForMaskedLM", {**_BODY, "conv_kernel_size": 3, "conv_act": "gelu"}),
    "electra": ("ElectraForMaskedLM", dict(**_BODY, embedding_size=16)),
    "distilbert": ("DistilBertForMaskedLM", dict(vocab_size=VOCAB, dim=32, n_layers=3, n_heads=4, hidden_dim=48)),
    "modernbert": ("ModernBertForMaskedLM", _MODERNBERT),
    "eurobert": ("EuroBertForMaskedLM", {**_ROTARY, "num_key_value_heads": 2}),
    "t5": (
        "T5ForConditionalGeneration",
        dict(vocab_size=VOCAB, d_model=32, num_layers=3, num_decoder_layers=2, num_heads=4, d_kv=8, d_ff=48),
    ),
    "bart": (
        "BartForConditionalGeneration",
        dict(vocab_size=VOCAB, d_model=32, encoder_layers=3, decoder_layers=2, encoder_ffn_dim=48, decoder_ffn_dim=48)
        | dict(encoder_attention_heads=4, decoder_attention_heads=4, max_position_embeddings=64),
    ),
}
CAUSAL = [name for name, (cls, _) in CLASSES.items() if cls.endswith(("CausalLM", "LMHeadModel"))]
TWOFOLD = [name for name, (cls, _) in CLASSES.items() if cls.endswith("ConditionalGeneration")]
MASKED = [name for name in CLASSES if name not in (*CAUSAL, *TWOFOLD)]


def make(name: str) -> Any:
    """Return the model `name`, with all weights large enough that every layer differs from the next."""
    cls_name, fields = CLASSES[name]
    cls = getattr(transformers, cls_name)
    torch.manual_seed(0)
    model = cls(cls.config_class(**fields))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


def save(name: str, folder: Path) -> Path:
    make(name).save_pretrained(folder)
    return folder
