"""Where tokens come from: texts and random tokens, as contexts that are equal for every checkpoint with one tokenizer.

`resolve` fills in what identifies a corpus; `contexts` gives its token ids and which of them are sampled.
"""

from pipeline.corpora.batches import Batch, Contexts
from pipeline.corpora.contexts import contexts
from pipeline.corpora.resolve import resolve, text_file
from pipeline.corpora.special_tokens import Tokenizer

__all__ = ["Batch", "Contexts", "Tokenizer", "contexts", "resolve", "text_file"]
