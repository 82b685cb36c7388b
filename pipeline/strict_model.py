"""The base of every noun: frozen, strict, and with one canonical form from which digests are made."""

import hashlib
import json
from difflib import get_close_matches
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError, model_validator


class StrictModel(BaseModel):
    """Frozen pydantic model that refuses unknown fields and names the nearest right one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _name_the_nearest_field(cls, data: Any) -> Any:
        if isinstance(data, dict):
            for key in set(data) - set(cls.model_fields):
                raise ValueError(f"unknown field {key!r}{suggest(str(key), list(cls.model_fields))}")
        return data


def _inside(path: str) -> str:
    path.encode()  # a lone surrogate is a ValueError, and no name of a file
    if "\0" in path or {"", ".", ".."} & set(path.split("/")):
        raise ValueError(f"{path!r} leads out of the folder that it belongs to")
    return path


SafeRelativePath = Annotated[str, AfterValidator(_inside)]
"""A relative path from outside, which stays in whatever folder it is put."""


def suggest(word: str, known: list[str]) -> str:
    """`; did you mean 'x'?` where something is near, else the list of what is known."""
    near = get_close_matches(word, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(sorted(known))}"


def canonical_json(value: Any) -> str:
    """Canonical JSON: sorted keys, no spaces, no NaN; raises TypeError on anything without one form."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def digest_json(value: Any, bits: int = 128) -> str:
    """blake2b of the canonical JSON of `value`, in hex."""
    return hashlib.blake2b(canonical_json(value).encode(), digest_size=bits // 8).hexdigest()


def format_first_error(error: ValidationError) -> str:
    """The first thing wrong, on one line: the field's place, what is wrong with it, and how much else is."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"] if part not in ("contexts", "snippets"))
    message = " ".join(first["msg"].removeprefix("Value error, ").split())
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{where + ': ' if where else ''}{message}{more}"
