"""Generated pages equal the committed ones and describe every column, flag and command."""

import pytest

from pipeline.columns import FLAGS, METRIC_GROUPS, all_columns, column_names
from tests.docs.pages import columns_page, pages


@pytest.mark.parametrize(("path", "text"), pages().items(), ids=lambda value: getattr(value, "name", ""))
def test_the_committed_page_equals_the_generated_one(path, text):
    assert path.read_text() == text, f"{path.name} is out of date: make pages"


def test_the_page_has_one_row_per_column_and_per_flag():
    cells = [line.split(" | ") for line in columns_page().splitlines() if line.startswith("| `")]
    assert [row[0].strip("|` ") for row in cells[: -len(FLAGS)]] == [c.name for g in _groups() for c in g]
    assert [row[0].strip("|` ") for row in cells[-len(FLAGS) :]] == list(FLAGS)
    by_name = {row[0].strip("|` "): row for row in cells}
    assert all(len(by_name[name]) == 7 for name in column_names(*METRIC_GROUPS)), "source and bias of every metric"


def _groups():
    names = dict.fromkeys(column.group for column in all_columns())
    return [[column for column in all_columns() if column.group == name] for name in names]
