"""Recipes: which fields change the fingerprint and the cell id."""

import pytest

from pipeline.recipe import ContextRecipe, SnippetRecipe, built_in_recipe
from pipeline.spec import Cell
from tests.support import lake_rows

FIELDS = dict(name="mine", version=1, contexts=8, context_tokens=32, kept_per_context=16)


class Later(ContextRecipe):
    """Recipe of a later version of this code, with one more field whose default is the previous behaviour."""

    shrink: float = 0.0


def test_a_field_added_later_changes_neither_fingerprint_nor_cell_id_until_it_is_set():
    now, later, other = ContextRecipe(**FIELDS), Later(**FIELDS), Later(**FIELDS, shrink=0.5)
    assert later.fingerprint == now.fingerprint != other.fingerprint
    cells = [
        Cell(checkpoint=lake_rows.checkpoint(1), kind="decoder", corpus=lake_rows.RANDOM, recipe=recipe)
        for recipe in (now, later, other)
    ]
    assert cells[0].id == cells[1].id != cells[2].id


def test_a_default_written_out_is_the_same_recipe():
    assert ContextRecipe(**FIELDS, seed=0, groups=1).fingerprint == ContextRecipe(**FIELDS).fingerprint


def test_name_and_version_are_in_the_cell_id_and_not_in_the_fingerprint():
    mine, other = ContextRecipe(**FIELDS), ContextRecipe(**FIELDS | {"name": "other", "version": 2})
    assert mine.fingerprint == other.fingerprint
    ids = {
        Cell(checkpoint=lake_rows.checkpoint(1), kind="decoder", corpus=lake_rows.RANDOM, recipe=recipe).id
        for recipe in (mine, other)
    }
    assert len(ids) == 2


CHANGES = {"contexts": 9, "context_tokens": 33, "kept_per_context": 15, "groups": 2, "seed": 1, "k": 32, "bos": "first"}


@pytest.mark.parametrize(("field", "value"), CHANGES.items())
def test_every_other_field_changes_the_fingerprint(field, value):
    assert ContextRecipe(**FIELDS | {field: value}).fingerprint != ContextRecipe(**FIELDS).fingerprint


def test_the_two_forms_never_share_a_fingerprint():
    assert SnippetRecipe(name="mine", version=1, snippets=8).fingerprint != ContextRecipe(**FIELDS).fingerprint
    assert len({built_in_recipe(label).fingerprint for label in ("authors@1", "standard@1", "quick@1")}) == 3
