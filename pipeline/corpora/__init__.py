"""Corpora: texts and random tokens, cut into contexts that are identical for all checkpoints with the same tokenizer.

`resolve` adds a corpus's checksum; `contexts` builds its token ids and sampled positions.
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
