"""Base class of the data models (frozen, no unknown fields), and the canonical JSON that digests are made from."""

import hashlib
import json
from difflib import get_close_matches
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError, model_validator


class StrictModel(BaseModel):
    """Frozen pydantic model that rejects unknown fields and suggests the closest known one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _reject_unknown_fields(cls, data: Any) -> Any:
        if isinstance(data, dict):
            for key in set(data) - set(cls.model_fields):
                raise ValueError(f"unknown field {key!r}{suggest(str(key), list(cls.model_fields))}")
        return data


def _require_inside(path: str) -> str:
    path.encode()  # a lone surrogate raises ValueError: it cannot be part of a file name
    if "\0" in path or {"", ".", ".."} & set(path.split("/")):
        raise ValueError(f"{path!r} is not a plain relative path: remove '..', empty parts and zero bytes")
    return path


SafeRelativePath = Annotated[str, AfterValidator(_require_inside)]
"""Relative path that is safe even from an untrusted source: joined to a folder, it stays inside that folder."""


def suggest(word: str, known: list[str]) -> str:
    """Return `; did you mean 'x'?` for the closest known word, else `; known: ...` with all of them."""
    near = get_close_matches(word, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(sorted(known))}"


_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
"""Shared, because `json.dumps` with these settings would build an encoder for each call."""


def canonical_json(value: Any) -> str:
    """Return canonical JSON: sorted keys, no spaces; raise TypeError or ValueError for what JSON lacks, such as NaN."""
    return _ENCODER.encode(value)


def digest_json(value: Any, bits: int = 128) -> str:
    """Return the blake2b digest of the canonical JSON of `value`, in hex."""
    return hashlib.blake2b(canonical_json(value).encode(), digest_size=bits // 8).hexdigest()


def format_first_error(error: ValidationError) -> str:
    """Format the first validation error on one line: field path, problem, and the number of further errors."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"] if part not in ("contexts", "snippets"))
    message = " ".join(first["msg"].removeprefix("Value error, ").split())
    message = message.replace("Input should be a valid tuple", "must be a list")  # a tuple is a list in YAML
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{where + ': ' if where else ''}{message}{more}"
