"""A Wikipedia XML dump as published, to the prose of its articles: what `enwik8` means without `-raw`.

Of each page only `<text>` is read, and only of articles: a title in another namespace (`Talk:`, `Template:` ...) and a
redirect give nothing. The text is unescaped once as XML and turned into prose by the rules of `wikitext`. Pages follow
in the order of the dump, one paragraph per line, one empty line between pages. A dump cut at any byte is cleaned up to
the cut. Rules that change an output byte raise ALGORITHMS["cleaning"].
"""

import mmap
import re
from collections.abc import Iterator
from pathlib import Path

from pipeline import cache
from pipeline.corpora.text_io import cache_text, find_cached_text
from pipeline.corpora.wikitext import extract_prose
from pipeline.progress import track_bytes
from pipeline.spec import ALGORITHMS

# Markup characters are escaped inside the dump's elements, so the next `<` ends one.
_ELEMENT = re.compile(rb"<title>([^<]*)|<text\b[^>]*>([^<]*)")
_OTHER_NAMESPACE = re.compile(
    r"(?:Media|Special|(?:User|Wikipedia|Image|MediaWiki|Template|Help|Category|Portal)(?: talk)?|Talk):"
)


def clean_dump(dump: Path, sha256: str) -> Path:
    """The file with the prose of a dump that has this sha256, made once per digest and version of the rules."""
    note = cache.folder("cleaned") / f"{sha256}-{ALGORITHMS['cleaning']}"
    with cache.hold_file_lock(note):
        if note.exists() and (path := find_cached_text(note.read_text())):
            return path
        digest = cache_text(track_bytes(extract_articles(dump), f"Cleaning {dump.name}", None))
        cache.write_atomic(note, digest.encode())
    path = find_cached_text(digest)
    assert path, "what was just written is there"
    return path


def extract_articles(dump: Path) -> Iterator[bytes]:
    """The prose of each article as UTF-8, one empty line after each; one page in memory at a time."""
    if dump.stat().st_size == 0:  # which mmap refuses
        return
    with dump.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        is_article = True
        for element in _ELEMENT.finditer(data):
            title, text = element.groups()
            if title is not None:
                is_article = not _OTHER_NAMESPACE.match(title.decode(errors="ignore"))
            elif is_article and (words := extract_prose(_unescaped(text))):
                yield f"{words}\n\n".encode()


def _unescaped(text: bytes) -> str:
    """XML text as characters; one that the end of the file cuts is dropped."""
    characters = text.decode(errors="ignore")
    for name, mark in (("&lt;", "<"), ("&gt;", ">"), ("&quot;", '"'), ("&amp;", "&")):
        characters = characters.replace(name, mark)
    return characters
