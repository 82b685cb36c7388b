"""Where tokens come from: texts and random tokens, as contexts that are equal for every checkpoint with one tokenizer.

`resolve` fills in what identifies a corpus; `contexts` gives its token ids and which of them are sampled.
"""

from pipeline.corpora.batches import Batch, Contexts
from pipeline.corpora.contexts import build_contexts
from pipeline.corpora.resolve import prepare_text_file, resolve_corpus
from pipeline.corpora.special_tokens import TokenizerProtocol

__all__ = ["Batch", "Contexts", "TokenizerProtocol", "build_contexts", "prepare_text_file", "resolve_corpus"]
