"""Checksum of a Parquet file, stored inside the file: any changed byte is detected before a number is read."""

import re
from hashlib import blake2b

KEY, WIDTH = "file_digest", 32
BLANK = "0" * WIDTH
ENTRY_PATTERN = re.compile(KEY.encode() + rb"\x18\x20(.{32})", re.DOTALL)
"""Encoded checksum entry in the key-value metadata: the key, the header of a 32-character string, the 32 characters."""


def fill_checksum(data: bytes) -> bytes:
    """Return the file with its blank checksum filled in.

    Raises:
        ValueError: the metadata has no blank checksum.
    """
    span = _find_checksum(data)
    if span is None or data[span] != BLANK.encode():
        raise ValueError(
            f"the metadata of the file has no {KEY!r} of {len(BLANK)} zeros, which the checksum would replace"
        )
    return data[: span.start] + _compute_checksum(data, span) + data[span.stop :]


def is_corrupt(data: bytes) -> bool | None:
    """Return True if the file does not match its checksum; None if it has no checksum."""
    span = _find_checksum(data)
    return None if span is None else data[span] != _compute_checksum(data, span)


def _find_checksum(data: bytes) -> slice | None:
    """Return the byte range of the checksum; None if the file has none.

    The last match in the file counts, because the metadata follows the data.
    """
    start = data.rfind(KEY.encode())
    match = ENTRY_PATTERN.match(data, start) if start >= 0 else None
    return slice(*match.span(1)) if match else None


def _compute_checksum(data: bytes, span: slice) -> bytes:
    body = blake2b(memoryview(data)[: span.start], digest_size=WIDTH // 2)
    body.update(memoryview(data)[span.stop :])
    return body.hexdigest().encode()
