"""Wiki markup to prose: roughly the words a reader of the rendered article sees.

Dropped with all they hold: redirects, comments, templates `{{ }}`, tables (`{| |}` and `<table>`), the elements of
OPAQUE (references, formulas, galleries, listings), links to images, files and categories, interlanguage links,
addresses of external links. Dropped, their content kept: every other HTML tag, emphasis quotes, list and heading marks.
Kept: the anchor text of links, headings as lines of their own, case, digits, punctuation. Entities become characters,
runs of blank space one space, and empty lines go, so that a line is a paragraph, a heading or a list item.
Markup that never closes loses its opening mark only, but a comment or an OPAQUE element runs to the end of the page,
as it does in MediaWiki.
"""

import html
import re
from collections import Counter
from collections.abc import Callable

DROPPED_ELEMENTS = "ref|math|gallery|timeline|imagemap|hiero|score|pre|source|syntaxhighlight|templatestyles"

_REDIRECT = re.compile(r"\s*#redirect\b", re.I)
_OPAQUE = re.compile(rf"<!--.*?(?:-->|\Z)|<({DROPPED_ELEMENTS})\b[^<>]*(?:(?<=/)>|>.*?(?:</\1\s*>|\Z))", re.I | re.S)
_NESTED = re.compile(
    r"(?P<open_template>\{\{)|(?P<close_template>\}\})"
    r"|(?P<open_table>^[ \t:*#]*\{\|)|(?P<close_table>^[ \t]*\|\}(?!\}))"
    r"|(?P<open_html><table\b[^<>]*>)|(?P<close_html></table\s*>)",
    re.I | re.M,
)
_LINK = re.compile(r"(?P<open_link>\[\[)|(?P<close_link>\]\])")
_HIDDEN = re.compile(r"\s*(?:(?i:image|file|media|category)|[a-z]{2,3}(?:-[a-z-]+)?|simple)\s*:")
_EXTERNAL = re.compile(
    r"\[(?:https?|ftp|news|mailto|irc|gopher):[^\s\[\]]*[ \t]*((?:\[\[[^\[\]\n]*\]\]|[^\[\]\n])*)\]", re.I
)
_BREAK = re.compile(r"</?(?:br|p|div|li|dt|dd|tr|hr|h[1-6]|center|blockquote)\b[^<>]*>", re.I)
_TAG = re.compile(r"</?[a-z][^<>]*(?:>|\Z)", re.I)
_LINES = (
    (re.compile(r"^[ \t]*\|.*", re.M), ""),  # a cell left over from a table that never closes
    (re.compile(r"^(={1,6})(.+?)\1[ \t]*$", re.M), r"\2"),
    (re.compile(r"^-{4,}", re.M), ""),
    (re.compile(r"^[*#:;]+", re.M), ""),
    (re.compile(r"__[A-Z]+__"), ""),
    (re.compile(r"'{2,}"), ""),
)


def extract_prose(wikitext: str) -> str:
    """The prose of one page, "" for a redirect; never raises, whatever the markup and wherever it is cut."""
    if _REDIRECT.match(wikitext):
        return ""
    text = _OPAQUE.sub("", wikitext)
    text = _replace_paired(text, _NESTED, lambda inside: "")
    text = _TAG.sub("", _BREAK.sub("\n", text))
    text = _replace_paired(_EXTERNAL.sub(r"\1", text), _LINK, _anchor)
    for pattern, kept in _LINES:
        text = pattern.sub(kept, text)
    return _without_blanks(html.unescape(text))


def _replace_paired(text: str, marks: re.Pattern[str], render: Callable[[str], str]) -> str:
    """Replace what stands between paired marks by `render` of it, innermost first, in one pass.

    A closing mark also ends whatever was opened inside its pair and never closed; marks without a partner vanish.
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
    """What a reader sees of `[[link]]`."""
    target, bar, label = link.partition("|")
    if _HIDDEN.match(target):
        return ""
    if bar and not label:  # the pipe trick: [[help:Mercury (planet)|]] shows Mercury
        return re.sub(r"\s*\([^()]*\)$", "", target.rpartition(":")[2])
    return label or target.lstrip(": ")


def _without_blanks(text: str) -> str:
    lines = (" ".join(line.split()) for line in text.split("\n"))
    return "\n".join(line for line in lines if line)
