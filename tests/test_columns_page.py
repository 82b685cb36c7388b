"""pipeline/columns.md is generated from the code and describes every column and flag."""

from pathlib import Path

from pipeline.columns import FLAGS, METRIC_GROUPS, all_columns, column_names
from pipeline.metric_docs import columns_page

PAGE = Path(__file__).resolve().parent.parent / "pipeline" / "columns.md"
REGENERATE = "python -m pipeline.metric_docs > pipeline/columns.md"


def test_the_committed_page_equals_the_generated_one():
    assert PAGE.read_text() == columns_page(), f"pipeline/columns.md is out of date; regenerate it with: {REGENERATE}"


def test_the_page_has_one_row_per_column_and_per_flag():
    cells = [line.split(" | ") for line in columns_page().splitlines() if line.startswith("| `")]
    assert [row[0].strip("|` ") for row in cells[: -len(FLAGS)]] == [c.name for g in _groups() for c in g]
    assert [row[0].strip("|` ") for row in cells[-len(FLAGS) :]] == list(FLAGS)
    by_name = {row[0].strip("|` "): row for row in cells}
    assert all(len(by_name[name]) == 7 for name in column_names(*METRIC_GROUPS)), "source and bias of every metric"


def _groups():
    names = dict.fromkeys(column.group for column in all_columns())
    return [[column for column in all_columns() if column.group == name] for name in names]
