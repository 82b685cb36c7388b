"""Reader of JSON-lines and Parquet files that yields one document per record: the text in one of its fields."""

import itertools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pipeline.corpora.text_io import read_blocks
from pipeline.errors import CorpusError

PARQUET_MAGIC = b"PAR1"
BATCH_ROWS = 1024
MAX_LISTED = 8
DEFAULT_FIELD = "text"


def read_documents(path: Path, field: str) -> Iterator[str]:
    """Yield the text of every record of a Parquet file, or of a JSON-lines file, plain or compressed (gzip, xz, ...).

    Args:
        field: name of the field. In JSON lines, a dotted name such as `meta.text` selects a nested field.

    Raises:
        CorpusError: a record cannot be read, lacks the field, or has something other than text in it. The message
            states the place in the file and the fields that exist.
    """
    with path.open("rb") as file:
        is_parquet = file.read(len(PARQUET_MAGIC)) == PARQUET_MAGIC
    yield from _read_parquet(path, field) if is_parquet else _read_json_lines(path, field)


def _read_json_lines(path: Path, field: str) -> Iterator[str]:
    for number, line in enumerate(_lines(read_blocks(path)), start=1):
        if line.strip():
            where = f"line {number} of corpus file {path}"
            yield _text(_parse(line, where), field, where)


def _lines(blocks: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    for block in blocks:
        *whole, rest = (rest + block).split(b"\n") if b"\n" in block else [rest + block]
        yield from whole
    yield rest


def _parse(line: bytes, where: str) -> Any:
    try:
        return json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        found = "a JSON array over several lines" if line.lstrip()[:1] == b"[" else f"not JSON ({error})"
        raise CorpusError(where, found, "Give JSON lines: one object per line, in UTF-8") from error


def _text(record: Any, field: str, where: str) -> str:
    value = record
    for name in (field,) if isinstance(record, dict) and field in record else field.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    if isinstance(value, str):
        return _encodable(value, where)
    known = sorted(record) if isinstance(record, dict) else []
    texts = [name for name in known if isinstance(record[name], str)]
    found = f"field {field!r} is {type(value).__name__}, not text" if field in known else f"no field {field!r}"
    raise CorpusError(where, f"{found}{_listed(known)}", _advice(texts))


def _encodable(text: str, where: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise CorpusError(
            where, "an unpaired surrogate, which is half of a character", "Leave the record out"
        ) from error
    return text


def _read_parquet(path: Path, field: str) -> Iterator[str]:
    import pyarrow  # this import takes half a second, and only Parquet needs it
    from pyarrow import parquet

    where = f"corpus file {path}"
    try:
        file = parquet.ParquetFile(path)
        schema = file.schema_arrow
        is_text = {
            column.name: pyarrow.types.is_string(column.type) or pyarrow.types.is_large_string(column.type)
            for column in schema
        }
        if not is_text.get(field):
            found = f"column {field!r} is not text" if field in is_text else f"no column {field!r}"
            raise CorpusError(
                where, f"{found}{_listed(list(is_text))}", _advice([n for n, ok in is_text.items() if ok])
            )
        batches = file.iter_batches(BATCH_ROWS, columns=[field])
        texts = (text for batch in batches for text in batch.column(0).to_pylist())
        for number, text in enumerate(texts, start=1):
            yield _text({field: text}, field, f"row {number} of {where}")
    except (pyarrow.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        found = f"a damaged Parquet file ({str(error).splitlines()[0] if str(error) else type(error).__name__})"
        raise CorpusError(where, found, "Replace it with an intact copy") from error


def _listed(names: list[str]) -> str:
    shown = ", ".join(itertools.islice(names, MAX_LISTED))
    return f"; the fields are {shown}{' ...' if len(names) > MAX_LISTED else ''}" if names else ""


def _advice(texts: list[str]) -> str:
    return f"Write field: {texts[0]}" if texts else "Name a field that has text in every record"
