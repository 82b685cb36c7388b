"""Models: strict loading, hidden states of every layer, the model's own loss, tokenizers."""

from pipeline.model.layer_stack import CaptureCallback, LayerStack, StateSpec
from pipeline.model.loading import Model, load_model
from pipeline.model.tokenizer import Tokenizer, load_tokenizer
from pipeline.model.weight_reload import release_weights, reload_model

__all__ = [
    "CaptureCallback",
    "LayerStack",
    "Model",
    "StateSpec",
    "Tokenizer",
    "load_model",
    "load_tokenizer",
    "release_weights",
    "reload_model",
]
