"""The models: strict loading, the hidden state of every layer, the model's own loss, its tokenizer."""

from pipeline.model.layer_stack import Capture, Profile, State
from pipeline.model.loading import Model, load
from pipeline.model.tokenizer import Tokenizer, load_tokenizer
from pipeline.model.weight_reload import load_after, release

__all__ = ["Capture", "Model", "Profile", "State", "Tokenizer", "load", "load_after", "load_tokenizer", "release"]
