"""Cleaning of a Wikipedia dump keeps the prose and removes the markup, even if the dump is truncated."""

import hashlib
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.corpora import build_contexts, resolve, resolve_corpus, wikitext
from pipeline.corpora.resolve import prepare_text_file
from pipeline.corpora.wikitext import extract_articles, extract_prose
from pipeline.recipe import built_in_recipe
from pipeline.spec import ALGORITHMS, Cell, Checkpoint, Corpus
from tests.support.fake_tokenizers import Characters, recipe

MARKUP = re.compile(r"\[\[|\]\]|\{\{|\}\}|\{\||\|\}|</?[a-z]+[ />]|<!--|''|^=|^\*|&[a-z]+;|__[A-Z]|  |\n\n\n", re.M)


@pytest.mark.parametrize(
    ("markup", "words"),
    [
        ("#REDIRECT [[AAA]]", ""),
        ("#redirect [[AAA]] {{R from CamelCase}}", ""),
        ("'''Autism''' is ''classified''", "Autism is classified"),
        ("the [[Greek language|Greek]] [[word]]s", "the Greek words"),
        ("a [[Mercury (planet)|]] and [[help:Page|]]", "a Mercury and Page"),
        ("see [[:Category:Cats]] [[#top]]", "see Category:Cats #top"),
        ("[[Image:x.jpg|thumb|A [[cat]] by [http://a.b c]]]the cat[[Category:Cats|*]]", "the cat"),
        ("[[de:Katze]][[zh-min-nan:Niau]][[simple:Cat]]cat", "cat"),
        ("one {{a|b={{c}} d}} two", "one two"),
        ("x\n{| class=a\n|-\n| b || {{c}}\n{|\n| nested\n|}\n|}\ny", "x\ny"),
        ("{{a|\n|}} b", "b"),
        ("a <table><tr><td><table>b</table></td></tr></table>c", "a c"),
        ("a<ref name=x/> b<ref>c {{d}}</ref> e<REF name='y' >f</ref>", "a b e"),
        ("a <!-- b [[c --> d <!-- open", "a d"),
        ("<math>x^{2^{n}}</math>y <div class='z'>w</div><br/>v", "y\nw\nv"),
        ("see [http://a.b the [[site]]] and [http://c.d]", "see the site and"),
        ("== History ==\n=== ''Early'' ===\ntext", "History\nEarly\ntext"),
        ("* one\n** two\n#: three\n----\n;four", "one\ntwo\nthree\nfour"),
        ("1 &lt; 2 &amp; A &mdash; B&nbsp;C &#945;", "1 < 2 & A — B C α"),
        ("__NOTOC__ word_with_ __x__", "word_with_ __x__"),
        ("an [[unclosed link and {{unclosed template", "an unclosed link and unclosed template"),
        ("closed ]] before }} open |} here", "closed before open |} here"),
        ("Case, digits 123 and (punctuation)! stay: 'so' they \"do\".",) * 2,
        ("a   b\t c\n\n\n d ", "a b c\nd"),
    ],
)
def test_markup_becomes_what_a_reader_sees(markup: str, words: str) -> None:
    assert extract_prose(markup) == words


PAIRS = [
    "[[",
    "]]",
    "{{",
    "}}",
    "\n{|",
    "\n|}",
    "<table>",
    "</table>",
    "<ref>",
    "</ref>",
    "<!--",
    "-->",
    "[http://x ",
    "]",
]
SIGNS = ["Image:", "|", "a", "=", "'", "<", ">", "&lt;", " ", "\n"]


@given(st.lists(st.sampled_from(PAIRS + SIGNS)))
def test_any_markup_gives_lines_without_redundant_spaces(pieces: list[str]) -> None:
    lines = extract_prose("".join(pieces)).split("\n")
    assert lines == [" ".join(line.split()) for line in lines]
    assert "" not in lines[:-1]


@pytest.mark.parametrize("bomb", ["{{", "[[", "{|\n", "<ref>", "<!--", "[http:", "= ", "<a ", "'"])
def test_markup_that_never_closes_takes_linear_time(bomb: str) -> None:
    # A page of 300 kB takes 0.01 to 0.3 s; a quadratic algorithm would take minutes and exceed the 120 s timeout.
    assert len(extract_prose(bomb * (300_000 // len(bomb)) + "</table>|}]]" * 10_000)) <= 300_000 + 120_000


def dump(folder: Path, *pages: tuple[str, str], end: str = "") -> Path:
    path = folder / "dump"
    body = "".join(f'<page>\n<title>{t}</title>\n<text xml:space="preserve">{x}</text>\n</page>\n' for t, x in pages)
    path.write_text(f"<mediawiki>\n<sitename>Wikipedia</sitename>\n{body}{end}")
    return path


def test_only_the_text_of_articles_is_read(tmp_path: Path) -> None:
    path = dump(tmp_path, ("One", "first"), ("Talk:One", "said"), ("Wikipedia talk:X", "s"), ("Two: 2", "&amp;quot;q"))
    assert list(extract_articles(path)) == [b"first\n\n", b'"q\n\n']


def test_an_empty_dump_and_one_without_pages_have_no_prose(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert list(extract_articles(tmp_path / "empty")) == []
    assert list(extract_articles(dump(tmp_path))) == []


def test_a_cleaned_text_is_made_once_per_digest_and_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = resolve_corpus(Corpus(kind="enwik8", path=str(dump(tmp_path, ("One", "made once")))))
    path = prepare_text_file(corpus)
    assert path.read_text() == "made once\n\n"
    with monkeypatch.context() as patch:
        patch.setattr(resolve, "extract_articles", lambda path: pytest.fail("cleaned again"))
        assert prepare_text_file(corpus) == path
    monkeypatch.setitem(ALGORITHMS, "cleaning", ALGORITHMS["cleaning"] + 1)
    monkeypatch.setattr(wikitext, "extract_prose", str.upper)
    assert prepare_text_file(corpus).read_text() == "MADE ONCE\n\n"


def test_the_rules_identify_a_cell_on_the_cleaned_text_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = str(dump(tmp_path, ("One", "words")))
    checkpoint = Checkpoint(
        **dict.fromkeys(("model", "revision", "path", "tokenizer_path"), "x"),
        **dict.fromkeys(("weights_digest", "config_digest", "tokenizer_digest"), "0"),
        kinds=("decoder",),
    )

    def id_on(kind: str) -> str:
        corpus = resolve_corpus(Corpus(kind=kind, path=file))  # type: ignore[arg-type]
        return Cell(checkpoint=checkpoint, kind="decoder", corpus=corpus, recipe=built_in_recipe("quick@1")).id

    before = {kind: id_on(kind) for kind in ("enwik8", "enwik8-raw", "text", "random-unigram")}
    monkeypatch.setitem(ALGORITHMS, "cleaning", ALGORITHMS["cleaning"] + 1)
    assert {kind for kind in before if id_on(kind) != before[kind]} == {"enwik8"}


def test_contexts_have_the_digest_of_the_cleaned_text(tmp_path: Path) -> None:
    """The digest is the same for new and cached contexts; without cleaning it is the corpus's sha256."""
    file = dump(tmp_path, ("One", "''words'' " * 99))
    prose = ("words " * 99).strip().encode() + b"\n\n"
    for kind, text in (("enwik8", prose), ("enwik8-raw", file.read_bytes())):
        corpus = resolve_corpus(Corpus(kind=kind, path=str(file)))  # type: ignore[arg-type]
        for _ in range(2):
            made = build_contexts(corpus, recipe(), Characters(), 1 << 20, None, f"digest of {kind}")
            assert made.text_sha256 == hashlib.sha256(text).hexdigest()
    for _ in range(2):
        made = build_contexts(Corpus(kind="random-uniform"), recipe(), Characters(), 1000, None, "digest of none")
        assert made.text_sha256 is None


def test_real_articles_keep_their_sentences_and_lose_their_markup(shared: Callable[[str], Path]) -> None:
    words = b"".join(extract_articles(shared("data/enwik5"))).decode()
    assert [match[0] for match in MARKUP.finditer(words)] == []
    for sentence in (
        "Anarchism originated as a term of abuse first used against early working class radicals including the Diggers "
        "of the English Revolution and the sans-culottes of the French Revolution.",
        'The word anarchism is derived from the Greek αναρχία ("without archons (ruler, chief, king)").',
        "\nOrigins and predecessors\n",
        "\nthe MIT professor of Linguistics Noam Chomsky\n",
        "Kronstadt rebellion (1921)\n",
        "the widespread recognition of Asperger's work was delayed by World War II in Germany",
        "IQ<80 referred to as",
    ):
        assert sentence in words
    assert "REDIRECT" not in words
    assert "Anarquismo" not in words  # a link to another language
    assert words.count("\n\n") == 2  # the two articles of the file that are not redirects


def test_a_dump_cut_anywhere_is_cleaned_up_to_the_cut(shared: Callable[[str], Path], tmp_path: Path) -> None:
    data = shared("data/enwik5").read_bytes()
    whole = b"".join(extract_articles(shared("data/enwik5"))).decode()
    for cut in np.random.default_rng(0).integers(0, len(data), 60):
        (tmp_path / "cut").write_bytes(data[:cut])
        words = b"".join(extract_articles(tmp_path / "cut")).decode()
        # The last lines can have markup that the cut left unclosed; the text before equals the whole dump's.
        settled = words[: max(len(words) - 3000, 0)]
        assert whole.startswith(settled), int(cut)
        assert not MARKUP.search(settled)
