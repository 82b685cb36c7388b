"""File formats other than plain text, recognised by their first bytes, each with the next step for the user."""

import json
from typing import NamedTuple

HEAD_BYTES = 1 << 16
"""Number of bytes at the beginning of a file from which its format is recognised."""
BOM = b"\xef\xbb\xbf"


class ForeignFormat(NamedTuple):
    """Format of a file that is not plain text: its name with an article, and what the user can do instead."""

    found: str
    do: str


_EXTRACT = "Extract its text to a file, and name that file"
_RECORDS = "Write {jsonl: PATH, field: FIELD} or jsonl:PATH#FIELD, where FIELD is the field that has the text"
_MAGIC: dict[bytes, ForeignFormat] = {
    b"PAR1": ForeignFormat("a Parquet file", _RECORDS.replace("jsonl", "parquet")),
    b"ARROW1": ForeignFormat("an Arrow file", "Save it as Parquet: datasets.load_from_disk(DIR).to_parquet(PATH)"),
    b"\xff\xff\xff\xff": ForeignFormat(
        "an Arrow stream", "Save it as Parquet: datasets.load_from_disk(DIR).to_parquet(PATH)"
    ),
    b"%PDF": ForeignFormat("a PDF file", _EXTRACT),
    b"\x89PNG": ForeignFormat("a PNG image", _EXTRACT),
    b"\xff\xd8\xff": ForeignFormat("a JPEG image", _EXTRACT),
    b"SQLite format 3": ForeignFormat("an SQLite database", _EXTRACT),
    b"\x7fELF": ForeignFormat("a program", "Name a text file"),
    b"\xd0\xcf\x11\xe0": ForeignFormat("a Microsoft Office file", _EXTRACT),
    b"\x93NUMPY": ForeignFormat("a NumPy array", "Name the text that its tokens were made from"),
    b"MMIDIDX": ForeignFormat("an index of Megatron tokens", "Name the text that the tokens were made from"),
    b"GGUF": ForeignFormat("GGUF weights", "Name a text file"),
    b"\xfe\xff": ForeignFormat("UTF-16 text", "Convert it: iconv -f UTF-16 -t UTF-8 FILE > OUT"),
    b"\xff\xfe": ForeignFormat("UTF-16 text", "Convert it: iconv -f UTF-16 -t UTF-8 FILE > OUT"),
    b"\x80\x02": ForeignFormat("a Python pickle", _EXTRACT),
    b"\x80\x04": ForeignFormat("a Python pickle", _EXTRACT),
}
_TAR = slice(257, 262)


def describe_foreign_text(head: bytes, accept_records: bool = False) -> ForeignFormat | None:
    """Return the format of a file, recognised from its first (decompressed) bytes; None if it is plain text.

    Args:
        accept_records: if True, JSON lines are accepted as well, and the result for them is None.
    """
    if known := next((known for magic, known in _MAGIC.items() if head.startswith(magic)), None):
        return known
    if head[_TAR] == b"ustar":
        return ForeignFormat("a tar archive", "Extract its files, and name their folder")
    if b"\0" in head:
        return ForeignFormat("binary data (it has zero bytes)", "Name a file of UTF-8 text")
    if not accept_records and (kind := _json_kind(head.removeprefix(BOM))):
        return ForeignFormat(kind, _RECORDS)
    return None


def _json_kind(head: bytes) -> str | None:
    """Return "JSON lines" if the first two lines that are not blank are JSON objects, else None."""
    lines = [line for line in head.split(b"\n") if line.strip()]
    whole = lines if len(head) < HEAD_BYTES else lines[:-1]  # the last line may be cut
    if not lines or not lines[0].lstrip().startswith(b"{"):
        return None
    if not whole:  # the first object is longer than the head, so it cannot be parsed
        return "JSON lines" if lines[0].lstrip().startswith(b'{"') else None
    return "JSON lines" if all(isinstance(_parsed(line), dict) for line in whole[:2]) else None


def _parsed(line: bytes) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None
