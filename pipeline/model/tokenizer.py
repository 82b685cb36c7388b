"""Tokenizer loaded from a local folder; adds special tokens only on request."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from pipeline.catalog.checkpoint_files import LocalFolder, has_tokenizer
from pipeline.errors import CheckpointError
from pipeline.model.file_errors import as_checkpoint_error, describe_bad_tokenizer_field

ROUND_TRIP_TEXT = "Hello, world! It's 3.14  (caf\u00e9 na\u00efve);\n\tx = 'y' \u6771\u4eac \u03b1\u03b2"
"""Text that a round trip changes if the tokenizer lower-cases, normalises Unicode, or loses spaces or characters."""
CONVERTER_PACKAGES = ("sentencepiece", "tiktoken")
"""Packages that read *.model files. If one is missing, the error of transformers names the wrong package."""
PLAIN_ENCODING = {"add_special_tokens": False, "split_special_tokens": True, "verbose": False}


class Tokenizer:
    """Tokenizer that treats `<s>` in a text as plain text; only `encode_with_special_tokens` uses special tokens."""

    def __init__(self, inner: PreTrainedTokenizerBase) -> None:
        self._inner: Any = inner  # the annotations of transformers are too wide to use

    def __len__(self) -> int:
        """Return the number of ids, including added tokens."""
        return len(self._inner)

    def encode(self, text: str) -> list[int]:
        return self._inner(text, **PLAIN_ENCODING)["input_ids"]

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[int] | None]:
        """Return the token ids and, for each token, the index in `text` after its last character.

        The second item is None if the tokenizer has no offsets. If several tokens encode one character, each of them
        ends after that character. The tokenizer's `trim_offsets` decides whether white space at the end of a token
        belongs to it.
        """
        if not self._inner.is_fast:
            return self.encode(text), None
        out = self._inner(text, return_offsets_mapping=True, **PLAIN_ENCODING)
        return out["input_ids"], [end for _, end in out["offset_mapping"]]

    def encode_with_special_tokens(self, text: str) -> tuple[list[int], list[bool]]:
        """Return the ids including the tokenizer's default special tokens, and a mask that is True at these tokens.

        A special token that is spelled out in `text` becomes one id, at which the mask is False.
        """
        out = self._inner(text, return_special_tokens_mask=True, verbose=False)
        return out["input_ids"], list(map(bool, out["special_tokens_mask"]))

    def decode(self, ids: list[int]) -> str:
        return self._inner.decode(ids, clean_up_tokenization_spaces=False)

    @property
    def bos_id(self) -> int | None:
        """Id of the beginning-of-sequence token or, without one, of the class token; None if there is neither."""
        return self._inner.cls_token_id if self._inner.bos_token_id is None else self._inner.bos_token_id

    @property
    def mask_id(self) -> int | None:
        return self._inner.mask_token_id

    @property
    def round_trips(self) -> bool:
        """True if ROUND_TRIP_TEXT (accents, several scripts, unusual white space) decodes to itself."""
        return self.decode(self.encode(ROUND_TRIP_TEXT)) == ROUND_TRIP_TEXT

    def text_token_ids(self, vocab_size: int) -> np.ndarray:
        """Return the int64 ids of text tokens below `vocab_size`, ascending.

        Text tokens are not special, not added, and not decoded to ''.
        """
        excluded = {*self._inner.all_special_ids, *self._inner.get_added_vocab().values()}
        ids = [id_ for id_ in range(min(len(self), vocab_size)) if id_ not in excluded]
        if not ids:
            return np.array([], dtype=np.int64)  # without ids, batch_decode would return one empty text
        texts = self._inner.batch_decode([[id_] for id_ in ids], clean_up_tokenization_spaces=False)
        return np.array([id_ for id_, text in zip(ids, texts, strict=True) if text], dtype=np.int64)


def load_tokenizer(folder: Path) -> Tokenizer:
    """Load the tokenizer in `folder`; nothing is downloaded and no remote code runs.

    Raises:
        CheckpointError: the folder has no tokenizer files, or they are invalid.
    """
    if not has_tokenizer(LocalFolder(folder)):
        raise CheckpointError(
            f"tokenizer in {folder}",
            "no tokenizer files",
            "Name a folder with tokenizer files as `tokenizer:` of the checkpoint source",
        )

    def describe() -> str:
        return f"{describe_bad_tokenizer_field(folder)}cannot be read"

    with as_checkpoint_error(f"tokenizer in {folder}", describe, _advice(folder)):
        tokenizer = Tokenizer(AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False))
        _try(tokenizer)
        return tokenizer


def _advice(folder: Path) -> str:
    """Return what the user should do if the tokenizer cannot be loaded, such as install a package for its files."""
    has_fast = (folder / "tokenizer.json").exists()
    packages = [package for package in CONVERTER_PACKAGES if find_spec(package) is None]
    if not has_fast and packages and any(folder.glob("*.model")):
        return f"Install {' and '.join(packages)}, or save the tokenizer as tokenizer.json in this folder"
    return "Download the tokenizer files again"


def _try(tokenizer: Tokenizer) -> None:
    """Use every method once, because some invalid settings, such as a length that is text, fail only in use."""
    tokenizer.encode_with_offsets("a")
    tokenizer.encode_with_special_tokens("a")
    tokenizer.decode(tokenizer.encode("a"))
    tokenizer.text_token_ids(1)
    _ = tokenizer.bos_id, tokenizer.mask_id
