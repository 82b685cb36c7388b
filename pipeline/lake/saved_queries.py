"""Saved queries: frequent questions by name. `shapelake query @dome` runs the SQL in `queries/dome.sql`."""

from importlib.resources import files
from typing import NamedTuple

from pipeline.errors import UsageError
from pipeline.strict_model import suggest

QUERY_SIGN = "@"
QUERY_NAMES = ["dome", "id-peak", "sink", "audit", "coverage"]


class SavedQuery(NamedTuple):
    meaning: str
    sql: str


def all_saved_queries() -> dict[str, SavedQuery]:
    """Return the saved queries by name, without the `@`."""
    return {name: _read(name) for name in QUERY_NAMES}


def resolve_query(text: str) -> str:
    """Return the SQL of `@name`; any other text unchanged.

    Raises:
        UsageError: no saved query has this name.
    """
    name = text.strip()
    if not name.startswith(QUERY_SIGN):
        return text
    name = name.removeprefix(QUERY_SIGN)
    if name not in QUERY_NAMES:
        known = ", ".join(f"{QUERY_SIGN}{each}" for each in QUERY_NAMES)
        found = f"no such saved query{suggest(name, QUERY_NAMES)}"
        raise UsageError(f"query {QUERY_SIGN}{name}", found, f"Use one of {known}")
    return _read(name).sql


def _read(name: str) -> SavedQuery:
    """Read a query; the first line of its file is a comment that states its meaning."""
    meaning, _, sql = (files("pipeline.lake") / "queries" / f"{name}.sql").read_text().partition("\n")
    return SavedQuery(meaning.removeprefix("-- "), sql)
