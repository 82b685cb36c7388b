"""Contexts are deterministic, cached per tokenizer, spread evenly over groups, and sampled uniformly."""

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline import cache
from pipeline.corpora import Contexts, build_contexts, resolve_corpus
from pipeline.errors import CorpusError, UsageError
from pipeline.recipe import SnippetRecipe, built_in_recipe
from pipeline.spec import Corpus
from tests.support.fake_tokenizers import Characters, Words, recipe

PROSE = "".join(f"{n} bottles of beer on the wall, {n} bottles of beer: take one down, " for n in range(2000))
UNIFORM = Corpus(kind="random-uniform")


@pytest.fixture
def prose(tmp_path: Path) -> Corpus:
    (tmp_path / "prose").write_text(PROSE)
    return resolve_corpus(Corpus(kind="text", path=str(tmp_path / "prose")))


def equal(a: Contexts, b: Contexts) -> bool:
    same = [
        np.array_equal(x, y)
        for name in ("ids", "kept_positions", "moment_positions", "special_masks")
        for x, y in zip(getattr(a, name), getattr(b, name), strict=True)
    ]
    facts = [(text.context_group.tolist(), text.flags, text.text_sha256, text.digest) for text in (a, b)]
    return all(same) and facts[0] == facts[1]


def chi_square(counts: np.ndarray) -> float:
    """Return the standard score of the counts under a uniform distribution."""
    mean, freedom = counts.mean(), len(counts) - 1
    return float((((counts - mean) ** 2 / mean).sum() - freedom) / np.sqrt(2 * freedom))


# --- identical for all processes and checkpoints

IN_ANOTHER_PROCESS = """
import sys
from pipeline.corpora import build_contexts, resolve_corpus
from pipeline.spec import Corpus
from tests.support.fake_tokenizers import Words, recipe
for corpus in ({"text": sys.argv[1]}, {"random-unigram": sys.argv[1]}, {"random-uniform": {}}):
    made = build_contexts(resolve_corpus(Corpus.model_validate(corpus)), recipe(moment_tokens=5), Words(), 1000, None)
    print(made.digest, [a.tolist() for a in (*made.kept_positions, *made.moment_positions)])
"""


def test_another_process_makes_the_same_contexts_and_positions(prose: Corpus) -> None:
    lines = []
    for corpus in (prose, prose.model_copy(update={"kind": "random-unigram"}), UNIFORM):
        made = build_contexts(corpus, recipe(moment_tokens=5), Words(), 1000, None)
        lines.append(f"{made.digest} {[a.tolist() for a in (*made.kept_positions, *made.moment_positions)]}")
    command = [sys.executable, "-c", IN_ANOTHER_PROCESS, str(prose.path)]
    for hash_seed in ("1", "2"):
        run = subprocess.run(
            command, env={"PYTHONHASHSEED": hash_seed, "PYTHONPATH": "."}, capture_output=True, text=True
        )
        assert run.stdout.splitlines() == lines, run.stderr


def test_a_second_checkpoint_with_the_same_tokenizer_encodes_nothing(prose: Corpus) -> None:
    for form in (recipe(), SnippetRecipe(name="s", version=1, snippets=4, max_tokens=50)):
        first = build_contexts(prose, form, Words(), 1000, None, "one")
        tokenizer = Words()
        assert equal(build_contexts(prose, form, tokenizer, 1000, None, "one"), first)
        assert tokenizer.asked == []
        build_contexts(prose, form, tokenizer, 1000, None, "another tokenizer")
        assert tokenizer.asked


AT_ONCE = """
import sys, time
from pipeline.corpora import build_contexts, resolve_corpus
from pipeline.spec import Corpus
from tests.support.fake_tokenizers import Words, recipe
tokenizer = Words()
inner = tokenizer.encode_with_offsets
tokenizer.encode_with_offsets = lambda text: (time.sleep(0.01), inner(text))[1]
build_contexts(resolve_corpus(Corpus(kind="text", path=sys.argv[1])), recipe(), tokenizer, 1000, None, "at once")
print(bool(tokenizer.asked))
"""


def test_only_one_of_concurrent_processes_tokenises(prose: Corpus) -> None:
    command = [sys.executable, "-c", AT_ONCE, str(prose.path)]
    runs = [subprocess.Popen(command, env={**os.environ, "PYTHONPATH": "."}, stdout=subprocess.PIPE) for _ in range(3)]
    assert sorted(run.communicate()[0] for run in runs) == [b"False\n", b"False\n", b"True\n"]


def test_only_recipe_fields_that_change_tokens_change_the_cache_key(prose: Corpus) -> None:
    build_contexts(prose, recipe(), Words(), 1000, None, "shares")
    for changes_nothing in ({"name": "other"}, {"version": 2}, {"k": 4}, {"dtype": "bfloat16"}, {"sink_multiple": 3}):
        build_contexts(prose, recipe(**changes_nothing), tokenizer := Words(), 1000, None, "shares")
        assert tokenizer.asked == []
    for changes in ({"seed": 1}, {"contexts": 4}, {"context_tokens": 15}, {"bos": "first"}, {"kept_per_context": 3}):
        build_contexts(prose, recipe(**changes), tokenizer := Words(), 1000, None, "shares")
        assert tokenizer.asked


def test_damaged_cached_contexts_are_built_again(prose: Corpus) -> None:
    before = set(cache.folder("contexts").glob("*.npz"))
    first = build_contexts(prose, recipe(), Words(), 1000, None, "damaged")
    (path,) = set(cache.folder("contexts").glob("*.npz")) - before
    whole = path.read_bytes()
    for damage in (b"", b"rubbish", whole[:-100], whole[:200] + bytes(8) + whole[208:]):
        path.write_bytes(damage)
        assert equal(build_contexts(prose, recipe(), Words(), 1000, None, "damaged"), first)
        assert path.read_bytes() == whole


# --- groups and positions


def test_every_group_covers_the_whole_text_and_groups_share_nothing(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("".join(map(chr, range(0x4E00, 0x4E00 + 20_000))))  # all characters distinct
    corpus = resolve_corpus(Corpus(kind="text", path=str(tmp_path / "text")))
    made = build_contexts(corpus, recipe(contexts=50), Characters(), 1 << 20, None)
    assert made.context_group.tolist() == [g for g in range(4) for _ in range(50)]
    tokens = np.stack(made.ids) - 0x4E00
    assert len(np.unique(tokens)) == 200 * 16
    for group in range(4):
        shares = tokens[made.context_group == group, 0] // 100  # two hundred windows over 20,000 characters
        # A window can start a little late if it would overlap the preceding window.
        assert np.abs(shares - np.arange(group, 200, 4)).max() <= 1


def test_positions_are_drawn_uniformly_without_replacement_and_independently() -> None:
    made = build_contexts(UNIFORM, recipe(contexts=2000, moment_tokens=8), Words(), 1000, None)
    for drawn, count in ((made.kept_positions, 4), (made.moment_positions, 8)):
        assert all(len(set(p)) == count and (np.diff(p) > 0).all() for p in map(np.ndarray.tolist, drawn))
        counts = np.bincount(np.concatenate(drawn), minlength=16)
        assert len(counts) == 16
        assert abs(chi_square(counts)) < 4
        assert counts[0] / len(made) == pytest.approx(count / 16, abs=0.02)  # se 0.005
    both = np.mean([len(set(k) & set(m)) for k, m in zip(made.kept_positions, made.moment_positions, strict=True)])
    assert both == pytest.approx(4 * 8 / 16, abs=0.05)  # hypergeometric: sd 0.89, se 0.010


def test_all_positions_enter_the_moments_where_the_recipe_names_none(prose: Corpus) -> None:
    made = build_contexts(prose, recipe(), Words(), 1000, None)
    assert all(np.array_equal(moments, np.arange(16)) for moments in made.moment_positions)
    assert made.moment_rows_per_group == [128] * 4


# --- random tokens


def test_uniform_ids_are_equally_frequent_and_stand_for_text() -> None:
    ids = np.concatenate(build_contexts(UNIFORM, recipe(contexts=2000), Words(), 500, None).ids)
    assert (ids.min(), ids.max()) == (10, 499)
    assert abs(chi_square(np.bincount(ids - 10, minlength=490))) < 4
    other = np.concatenate(build_contexts(UNIFORM, recipe(contexts=2000, seed=1), Words(), 500, None).ids)
    assert np.mean(ids == other) == pytest.approx(1 / 490, abs=0.001)  # se 0.00013


def test_unigram_ids_have_exactly_the_frequencies_of_the_texts_windows_in_another_order(prose: Corpus) -> None:
    shuffled = prose.model_copy(update={"kind": "random-unigram"})
    a, b = (np.stack(build_contexts(corpus, recipe(), Words(), 1000, None).ids) for corpus in (prose, shuffled))
    assert Counter(a.ravel().tolist()) == Counter(b.ravel().tolist())
    assert np.mean(a == b) < 0.2  # two random tokens of this text are equal with probability 0.09


def test_special_tokens_of_the_text_are_left_out_of_unigram_ids(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("abcde\x05" * 1000)
    made = build_contexts(
        resolve_corpus(Corpus(kind="random-unigram", path=str(tmp_path / "x"))), recipe(), Characters(), 200, None
    )
    assert set(np.concatenate(made.ids).tolist()) == {97, 98, 99, 100, 101}


def test_a_snippet_recipe_on_random_tokens_takes_contexts_of_equal_length(prose: Corpus) -> None:
    for kind, max_tokens, tokens in (("random-uniform", None, 128), ("random-unigram", 20, 20)):
        form = SnippetRecipe(name="s", version=1, snippets=7, max_tokens=max_tokens, bos="tokenizer")
        made = build_contexts(prose.model_copy(update={"kind": kind}), form, Words(), 1000, None)
        assert [len(ids) for ids in made.ids] == [tokens] * 7
        assert all((ids[0], ids[-1]) == (1, 2) and ids[1:-1].min() >= 10 for ids in made.ids)
        assert made.n_kept == 7 * tokens


# --- special tokens, lengths, errors


def test_special_tokens_are_part_of_the_length(prose: Corpus) -> None:
    for bos, front, back in (("none", [], []), ("first", [1], []), ("tokenizer", [1], [2])):
        made = build_contexts(prose, recipe(bos=bos), Characters(), 1000, None)
        for ids, special in zip(made.ids, made.special_masks, strict=True):
            assert len(ids) == len(special) == 16
            assert ids[special].tolist() == [*front, *back]
            body = ids[len(front) : len(ids) - len(back)].tolist()
            assert ids.tolist() == [*front, *body, *back]
            assert "".join(map(chr, body)) in PROSE


def test_special_tokens_that_are_not_there_or_leave_no_room_are_refused(prose: Corpus) -> None:
    tokenizer = Characters()
    tokenizer.bos_id = None
    with pytest.raises(UsageError, match="the tokenizer has no BOS token"):
        build_contexts(prose, recipe(bos="first"), tokenizer, 1000, None)
    tokenizer.encode_with_special_tokens = lambda text: ([7, 8], [False] * 2)  # type: ignore[method-assign]
    with pytest.raises(UsageError, match=r"\[97\].*\[7, 8\]"):
        build_contexts(prose, recipe(bos="tokenizer"), tokenizer, 1000, None)
    with pytest.raises(UsageError, match="the 2 special tokens leave no room"):
        build_contexts(prose, recipe(bos="tokenizer", context_tokens=2, kept_per_context=1), Characters(), 1000, None)


def test_a_context_beyond_the_position_table_is_refused_or_cut_and_flagged(prose: Corpus) -> None:
    for corpus in (prose, UNIFORM):
        with pytest.raises(CorpusError, match=r"contexts of 16 tokens .*: the model has 12 positions"):
            build_contexts(corpus, recipe(), Words(), 1000, 12)
        made = build_contexts(corpus, recipe(allow_shorter=True, kept_per_context=14), Words(), 1000, 12)
        assert (
            {len(ids) for ids in made.ids}
            == {len(kept) for kept in made.kept_positions}
            == {made.context_tokens}
            == {12}
        )
        assert made.flags == ("shorter_context",)
        assert build_contexts(corpus, recipe(allow_shorter=True), Words(), 1000, 16).flags == ()


def test_a_snippet_beyond_the_position_table_is_refused_or_cut_and_flagged(prose: Corpus) -> None:
    fields = {"name": "s", "version": 1, "snippets": 4}
    with pytest.raises(CorpusError, match=r"contexts of 512 tokens .*: the model has 100 positions"):
        build_contexts(prose, SnippetRecipe.model_validate(fields), Characters(), 1000, 100)
    made = build_contexts(
        prose, SnippetRecipe.model_validate(fields | {"allow_shorter": True}), Characters(), 1000, 100
    )
    assert [len(ids) for ids in made.ids] == [100] * 4
    assert made.flags == ("shorter_context",)


def test_a_corpus_of_ten_bytes_is_refused_with_both_numbers_or_flagged(tmp_path: Path) -> None:
    (tmp_path / "ten").write_text("ten bytes!")
    corpus = resolve_corpus(Corpus(kind="enwik8-raw", path=str(tmp_path / "ten")))
    with pytest.raises(CorpusError, match=r"32768 tokens .* 10 "):
        build_contexts(corpus, built_in_recipe("quick@1"), Characters(), 1000, None)
    with pytest.raises(CorpusError, match=r"65536 characters .* 10 "):
        build_contexts(corpus, built_in_recipe("authors@1"), Characters(), 1000, None)
    small = recipe(context_tokens=2, kept_per_context=1, allow_smaller=True)
    made = build_contexts(corpus, small, Characters(), 1000, None)
    assert made.context_group.tolist() == [0, 1, 2, 3]
    assert made.flags == ("smaller_corpus",)


def test_a_tokenizer_that_loses_text_is_flagged_where_there_is_text(prose: Corpus) -> None:
    lossy = Words()
    lossy.round_trips = False
    assert build_contexts(prose, recipe(), lossy, 1000, None).flags == ("tokenizer_round_trip",)
    assert build_contexts(UNIFORM, recipe(), lossy, 1000, None).flags == ()


def test_ids_beyond_the_models_vocabulary_are_refused(prose: Corpus) -> None:
    form = SnippetRecipe(name="s", version=1, snippets=1, snippet_chars=200)
    assert build_contexts(prose, form, Characters(), 120, None).ids[0].max() == 119
    with pytest.raises(CorpusError, match=r"id 119, .* below 119"):
        build_contexts(prose, form, Characters(), 119, None)


def test_quick_fits_the_raw_sample_of_wikipedia_and_not_the_cleaned_one(shared: Callable[[str], Path]) -> None:
    from pipeline.model.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(shared("histories/wiki-neox/step0"))
    file = str(shared("data/enwik5"))
    made = build_contexts(
        resolve_corpus(Corpus(kind="enwik8-raw", path=file)), built_in_recipe("quick@1"), tokenizer, 1024, 128
    )
    assert (len(made), made.context_tokens, made.n_kept, made.flags) == (256, 128, 4096, ())
    with pytest.raises(CorpusError, match=r"32768 tokens .* 29\d{3} "):
        build_contexts(
            resolve_corpus(Corpus(kind="enwik8", path=file)), built_in_recipe("quick@1"), tokenizer, 1024, 128
        )
