"""Prose from a Wikipedia XML dump: roughly the words that a reader of the rendered articles sees.

Only the `<text>` of pages in the main namespace is read (no `Talk:`, `Template:` ...), and a redirect yields nothing.
Pages keep the order of the dump, and an empty line separates two pages. A truncated dump is cleaned up to its end.

- Removed together with their content: comments, templates `{{ }}`, tables (`{| |}` and `<table>`), the elements in
  DROPPED_ELEMENTS (references, formulas, galleries, listings), links to images, files, categories and other languages,
  and the addresses of external links.
- Removed, while their content is kept: all other HTML tags, quotes for emphasis, and the marks of lists and headings.
- Kept: the anchor text of links, headings as lines of their own, upper and lower case, digits and punctuation.

Entities become characters, and each run of white space becomes one space. Empty lines inside a page are removed, so
that each line is a paragraph, a heading or a list item. Unclosed markup loses only its opening mark, with one
exception: as in MediaWiki, an unclosed comment or DROPPED_ELEMENTS tag extends to the end of the page.

If any byte of the output changes, ALGORITHMS["cleaning"] must get a new version number.
"""

import html
import mmap
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

DROPPED_ELEMENTS = "ref|math|gallery|timeline|imagemap|hiero|score|pre|source|syntaxhighlight|templatestyles"

# Markup characters are escaped inside the dump's elements, so the next `<` ends an element.
_ELEMENT = re.compile(rb"<title>([^<]*)|<text\b[^>]*>([^<]*)")
_WITH_TALK = "User|Wikipedia|Image|MediaWiki|Template|Help|Category|Portal"
_OTHER_NAMESPACE = re.compile(rf"(?:Media|Special|(?:{_WITH_TALK})(?: talk)?|Talk):")
_REDIRECT = re.compile(r"\s*#redirect\b", re.I)
_DROPPED = re.compile(rf"<!--.*?(?:-->|\Z)|<({DROPPED_ELEMENTS})\b[^<>]*(?:(?<=/)>|>.*?(?:</\1\s*>|\Z))", re.I | re.S)
_NESTED = re.compile(
    r"(?P<open_template>\{\{)|(?P<close_template>\}\})"
    r"|(?P<open_table>^[ \t:*#]*\{\|)|(?P<close_table>^[ \t]*\|\}(?!\}))"
    r"|(?P<open_html><table\b[^<>]*>)|(?P<close_html></table\s*>)",
    re.I | re.M,
)
_LINK = re.compile(r"(?P<open_link>\[\[)|(?P<close_link>\]\])")
_HIDDEN = re.compile(r"\s*(?:(?i:image|file|media|category)|[a-z]{2,3}(?:-[a-z-]+)?|simple)\s*:")
_ADDRESS = r"(?:https?|ftp|news|mailto|irc|gopher):[^\s\[\]]*"
_EXTERNAL = re.compile(rf"\[{_ADDRESS}[ \t]*((?:\[\[[^\[\]\n]*\]\]|[^\[\]\n])*)\]", re.I)
_BREAK = re.compile(r"</?(?:br|p|div|li|dt|dd|tr|hr|h[1-6]|center|blockquote)\b[^<>]*>", re.I)
_TAG = re.compile(r"</?[a-z][^<>]*(?:>|\Z)", re.I)
_LINES = (
    (re.compile(r"^[ \t]*\|.*", re.M), ""),  # a cell of an unclosed table
    (re.compile(r"^(={1,6})(.+?)\1[ \t]*$", re.M), r"\2"),
    (re.compile(r"^-{4,}", re.M), ""),
    (re.compile(r"^[*#:;]+", re.M), ""),
    (re.compile(r"__[A-Z]+__"), ""),
    (re.compile(r"'{2,}"), ""),
)


def extract_articles(dump: Path) -> Iterator[bytes]:
    """Yield the prose of each article as UTF-8, followed by an empty line; only one page is in memory at a time."""
    if dump.stat().st_size == 0:  # mmap refuses an empty file
        return
    with dump.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        is_article = True
        for element in _ELEMENT.finditer(data):
            title, text = element.groups()
            if title is not None:
                is_article = not _OTHER_NAMESPACE.match(title.decode(errors="ignore"))
            elif is_article and (words := extract_prose(_unescape_xml(text))):
                yield f"{words}\n\n".encode()


def _unescape_xml(text: bytes) -> str:
    """Decode the UTF-8 bytes and the entities of XML text; drop invalid bytes, such as those of a cut character."""
    characters = text.decode(errors="ignore")
    for name, mark in (("&lt;", "<"), ("&gt;", ">"), ("&quot;", '"'), ("&amp;", "&")):
        characters = characters.replace(name, mark)
    return characters


def extract_prose(wikitext: str) -> str:
    """Return the prose of one page, or "" for a redirect. Malformed and truncated markup causes no error."""
    if _REDIRECT.match(wikitext):
        return ""
    text = _DROPPED.sub("", wikitext)
    text = _replace_paired(text, _NESTED, lambda inside: "")
    text = _TAG.sub("", _BREAK.sub("\n", text))
    text = _replace_paired(_EXTERNAL.sub(r"\1", text), _LINK, _anchor)
    for pattern, replacement in _LINES:
        text = pattern.sub(replacement, text)
    lines = (" ".join(line.split()) for line in html.unescape(text).split("\n"))
    return "\n".join(line for line in lines if line)


def _replace_paired(text: str, marks: re.Pattern[str], render: Callable[[str], str]) -> str:
    """Replace each pair of marks, with the text between them, by `render(text between)`, the innermost pair first.

    A closing mark also closes the unclosed marks inside its pair. Marks without a partner are removed.
    """
    done: list[str] = []
    opened: list[tuple[str, int]] = []
    depth: Counter[str] = Counter()
    at = 0
    for mark in marks.finditer(text):
        done.append(text[at : mark.start()])
        at = mark.end()
        side, _, kind = (mark.lastgroup or "").partition("_")
        if side == "open":
            opened.append((kind, len(done)))
            depth[kind] += 1
        elif depth[kind]:
            inner, start = opened.pop()
            while inner != kind:
                depth[inner] -= 1
                inner, start = opened.pop()
            depth[kind] -= 1
            done[start:] = [render("".join(done[start:]))]
    return "".join(done) + text[at:]


def _anchor(link: str) -> str:
    """Return the text that a reader sees for `[[link]]`; "" for a link that shows no text, such as an image."""
    target, bar, label = link.partition("|")
    if _HIDDEN.match(target):
        return ""
    if bar and not label:  # the pipe trick: [[help:Mercury (planet)|]] shows Mercury
        return re.sub(r"\s*\([^()]*\)$", "", target.rpartition(":")[2])
    return label or target.lstrip(": ")
