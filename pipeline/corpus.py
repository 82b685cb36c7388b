"""Corpus: a source of tokens, its short forms in sweep files and on the command line, and its name in the lake."""

from pathlib import Path
from typing import Any, Literal

from pydantic import model_validator

from pipeline.strict_model import StrictModel, suggest

CorpusKind = Literal["enwik8", "enwik8-raw", "jsonl", "parquet", "random-uniform", "random-unigram", "text"]
RECORD_KINDS = ("jsonl", "parquet")
PACKED_SUFFIXES = (".gz", ".xz", ".zst", ".bz2", ".zip")


class Corpus(StrictModel):
    """Source of tokens. It is written as `{enwik8-raw: PATH}`, `{random-uniform: {}}`, `{text: PATH}`, or
    `{jsonl: PATH, field: F}`, or in short as `KIND[:PATH[#FIELD]]`."""

    kind: CorpusKind
    path: str | None = None
    """Local file (plain or compressed), folder or glob; for random-unigram, of the text that gives the token
    frequencies."""
    field: str | None = None
    """Name of the field of each record that has the text, for jsonl and parquet; null = the field `text`."""
    sha256: str | None = None
    """sha256 of the decompressed text; None until the corpus is resolved (see `corpora.resolve`), and for
    random-uniform."""

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, data: Any) -> Any:
        if isinstance(data, str):
            data = _parse_corpus_words(data)
        if isinstance(data, dict) and "kind" not in data:
            kinds = [name for name in data if name not in cls.model_fields]
            kind = next((name for name in kinds if name in CorpusKind.__args__), kinds[0] if kinds else None)
            data = {"kind": kind, "path": data.get(kind) or None} | {k: v for k, v in data.items() if k != kind}
        if isinstance(data, dict) and data.get("kind") not in CorpusKind.__args__:
            raise ValueError(
                f"unknown corpus {data.get('kind')!r}{suggest(str(data.get('kind')), list(CorpusKind.__args__))}"
            )
        return data

    @model_validator(mode="after")
    def _has_what_it_needs(self) -> "Corpus":
        if self.kind in ("text", "random-unigram", *RECORD_KINDS) and not self.path:
            raise ValueError(f"corpus {self.kind} needs a text file: {{{self.kind}: PATH}}")
        if self.kind == "random-uniform" and self.path:
            raise ValueError(f"corpus random-uniform takes no file, got {self.path}")
        if self.field is not None and self.kind not in (*RECORD_KINDS, "random-unigram"):
            raise ValueError(f"corpus {self.kind} has no fields: write {{jsonl: {self.path}, field: {self.field}}}")
        return self

    @property
    def id(self) -> str:
        """Name in the lake: the kind or, for the kinds text, jsonl and parquet, KIND:NAME with the file's name."""
        if self.kind in RECORD_KINDS:
            return f"{self.kind}:{self._stem}"
        return f"text:{Path(self.path or '').stem}" if self.kind == "text" else self.kind

    @property
    def is_records(self) -> bool:
        """True if the text is in a field of records."""
        return self.kind in RECORD_KINDS or self.field is not None

    @property
    def is_pattern(self) -> bool:
        """True if the path has wildcards; a file with exactly this name takes precedence over them."""
        return any(sign in str(self.path) for sign in "*?[")

    @property
    def source(self) -> str:
        """Corpus as written on the command line: KIND[:PATH[#FIELD]]."""
        field = f"#{self.field or 'text'}" if self.is_records else ""
        return self.kind + (f":{self.path}{field}" if self.path else "")

    @property
    def visible_path(self) -> str | None:
        """Path that must exist on every node: for a pattern, the folder above its first wildcard. None without a
        path."""
        path = Path(self.path) if self.path else None
        while path and self.is_pattern and any(sign in str(path) for sign in "*?[") and not path.exists():
            path = path.parent
        return path and str(path)

    @property
    def _stem(self) -> str:
        """Name of the file without its suffixes; for a pattern, name of the folder above it."""
        path = Path(self.path or "")
        if any(sign in path.name for sign in "*?["):
            path = Path(self.visible_path or "")
        return path.with_suffix("").stem if path.suffix in PACKED_SUFFIXES else path.stem


def _parse_corpus_words(text: str) -> dict[str, Any]:
    """Return the fields of a corpus written as KIND[:PATH[#FIELD]].

    If a file with the name PATH#FIELD exists, the # is part of its name.
    """
    kind, _, path = text.partition(":")
    if kind not in (*RECORD_KINDS, "random-unigram") or "#" not in path or Path(path).exists():
        return {kind: path or {}}
    path, _, field = path.rpartition("#")
    return {kind: path, "field": field or None}
