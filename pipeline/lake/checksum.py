"""A digest of a Parquet file inside the file: one changed byte anywhere is seen before a number is read."""

import re
from hashlib import blake2b

KEY, WIDTH = "file_digest", 32
BLANK = "0" * WIDTH
SEAL = re.compile(KEY.encode() + rb"\x18\x20(.{32})", re.DOTALL)
"""The entry of the file's key-value metadata as it is stored: the key, then a string of 32 characters."""


def sealed(data: bytes) -> bytes:
    """The file with the blank seal in its metadata filled in.

    Raises:
        ValueError: no blank seal.
    """
    place = _place(data)
    if place is None or data[place] != BLANK.encode():
        raise ValueError(f"a file without a blank {KEY!r} in its metadata")
    return data[: place.start] + _digest(data, place) + data[place.stop :]


def is_broken(data: bytes) -> bool | None:
    """Whether the file differs from what was sealed; None where it has no seal."""
    place = _place(data)
    return None if place is None else data[place] != _digest(data, place)


def _place(data: bytes) -> slice | None:
    """Where the seal stands: the last one, since metadata come last."""
    start = data.rfind(KEY.encode())
    found = SEAL.match(data, start) if start >= 0 else None
    return slice(*found.span(1)) if found else None


def _digest(data: bytes, place: slice) -> bytes:
    body = blake2b(memoryview(data)[: place.start], digest_size=WIDTH // 2)
    body.update(memoryview(data)[place.stop :])
    return body.hexdigest().encode()
