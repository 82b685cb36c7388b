"""Corpora: texts and random tokens, cut into contexts that are identical for all checkpoints with the same tokenizer.

`resolve_corpus` returns a corpus with the checksum of its text. `build_contexts` turns a resolved corpus into contexts:
token ids, and the positions at which hidden states are sampled.
"""

from pipeline.corpora.batches import Batch, Contexts
from pipeline.corpora.compared_tokens import with_compared_tokens
from pipeline.corpora.contexts import build_contexts
from pipeline.corpora.resolve import plain_text_bytes, prepare_text_file, resolve_corpus
from pipeline.corpora.special_tokens import TokenizerProtocol

__all__ = [
    "Batch",
    "Contexts",
    "TokenizerProtocol",
    "build_contexts",
    "plain_text_bytes",
    "prepare_text_file",
    "resolve_corpus",
    "with_compared_tokens",
]
