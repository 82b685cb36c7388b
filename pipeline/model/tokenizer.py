"""Tokenizers from a checkpoint's own folder, with special tokens only where they are asked for."""

from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from pipeline.catalog.checkpoint_files import LocalFolder, has_tokenizer
from pipeline.errors import CheckpointError

ROUND_TRIP_TEXT = "Hello, world! It's 3.14  (caf\u00e9 na\u00efve);\n\tx = 'y' \u6771\u4eac \u03b1\u03b2"
"""Text that lower-casing, Unicode clean-up, lost spaces and unknown characters all change."""
PLAIN_ENCODING = {"add_special_tokens": False, "split_special_tokens": True, "verbose": False}


class Tokenizer:
    """Text to token ids and back. No special token ever, but by `default`: `<s>` in a text is three characters."""

    def __init__(self, inner: PreTrainedTokenizerBase) -> None:
        self._inner: Any = inner  # its own annotations are unions too wide to use

    def __len__(self) -> int:
        """Ids, added ones included."""
        return len(self._inner)

    def encode(self, text: str) -> list[int]:
        """Token ids."""
        return self._inner(text, **PLAIN_ENCODING)["input_ids"]

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[int] | None]:
        """Token ids, and for each the index one past its last character; None from a tokenizer without offsets.

        Where a character is spelled by several tokens, each ends after it. White space at the end of a token counts
        or not as the tokenizer's `trim_offsets` has it.
        """
        if not self._inner.is_fast:
            return self.encode(text), None
        out = self._inner(text, return_offsets_mapping=True, **PLAIN_ENCODING)
        return out["input_ids"], [end for _, end in out["offset_mapping"]]

    def encode_with_special_tokens(self, text: str) -> tuple[list[int], list[bool]]:
        """Token ids as the tokenizer makes them by itself: its special tokens added, those spelled in `text` read.

        Returns:
            The ids, and which of them were added.
        """
        out = self._inner(text, return_special_tokens_mask=True, verbose=False)
        return out["input_ids"], list(map(bool, out["special_tokens_mask"]))

    def decode(self, ids: list[int]) -> str:
        return self._inner.decode(ids, clean_up_tokenization_spaces=False)

    @property
    def bos_id(self) -> int | None:
        """What opens a text: the beginning-of-sequence token, else the class token."""
        return self._inner.cls_token_id if self._inner.bos_token_id is None else self._inner.bos_token_id

    @property
    def mask_id(self) -> int | None:
        return self._inner.mask_token_id

    @property
    def round_trips(self) -> bool:
        """Whether a probe with accents, two scripts and odd white space decodes to itself."""
        return self.decode(self.encode(ROUND_TRIP_TEXT)) == ROUND_TRIP_TEXT

    def text_token_ids(self, vocab_size: int) -> np.ndarray:
        """Ids that stand for text, ascending: below `vocab_size`, known, not special, not added, not empty; int64."""
        left_out = {*self._inner.all_special_ids, *self._inner.get_added_vocab().values()}
        ids = [id_ for id_ in range(min(len(self), vocab_size)) if id_ not in left_out]
        texts = self._inner.batch_decode([[id_] for id_ in ids], clean_up_tokenization_spaces=False)
        return np.array([id_ for id_, text in zip(ids, texts, strict=True) if text], dtype=np.int64)


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer whose files lie in `folder`; nothing is fetched.

    Raises:
        CheckpointError: there are none, or they make no tokenizer.
    """
    if not has_tokenizer(LocalFolder(folder)):
        raise CheckpointError(
            f"tokenizer in {folder}", "no tokenizer files", "Name a folder that has them as `tokenizer:` of the source"
        )
    try:
        return Tokenizer(AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False))
    except Exception as error:  # tokenizers raises no narrower class
        line = next(iter(str(error).splitlines()), type(error).__name__)
        raise CheckpointError(f"tokenizer in {folder}", f"cannot be read ({line})", "Fetch the files again") from error
