"""A digest of a Parquet file inside the file: one changed byte anywhere is seen before a number is read."""

import re
from hashlib import blake2b

KEY, WIDTH = "file_digest", 32
BLANK = "0" * WIDTH
ENTRY_PATTERN = re.compile(KEY.encode() + rb"\x18\x20(.{32})", re.DOTALL)
"""The entry of the file's key-value metadata as it is stored: the key, then a string of 32 characters."""


def fill_checksum(data: bytes) -> bytes:
    """The file with the blank seal in its metadata filled in.

    Raises:
        ValueError: no blank seal.
    """
    place = _find_checksum(data)
    if place is None or data[place] != BLANK.encode():
        raise ValueError(f"a file without a blank {KEY!r} in its metadata")
    return data[: place.start] + _compute_checksum(data, place) + data[place.stop :]


def is_corrupt(data: bytes) -> bool | None:
    """Whether the file differs from what was sealed; None where it has no seal."""
    place = _find_checksum(data)
    return None if place is None else data[place] != _compute_checksum(data, place)


def _find_checksum(data: bytes) -> slice | None:
    """Where the seal stands: the last one, since metadata come last."""
    start = data.rfind(KEY.encode())
    found = ENTRY_PATTERN.match(data, start) if start >= 0 else None
    return slice(*found.span(1)) if found else None


def _compute_checksum(data: bytes, place: slice) -> bytes:
    body = blake2b(memoryview(data)[: place.start], digest_size=WIDTH // 2)
    body.update(memoryview(data)[place.stop :])
    return body.hexdigest().encode()
