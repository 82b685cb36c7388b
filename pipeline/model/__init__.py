"""The models: strict loading, the hidden state of every layer, the model's own loss, its tokenizer."""

from pipeline.model.loading import Model, load
from pipeline.model.profile import Capture, Profile, State
from pipeline.model.reuse import load_after, release
from pipeline.model.tokenizer import Tokenizer, load_tokenizer

__all__ = ["Capture", "Model", "Profile", "State", "Tokenizer", "load", "load_after", "load_tokenizer", "release"]
