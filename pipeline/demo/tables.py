"""Layer x step tables of a lake's histories, each with the query that gives it."""

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline import lake as lakes
from pipeline.lake import LakeReader
from pipeline.render.tables import console

TABLE_TITLES = {"anisotropy": "anisotropy", "id_twonn": "intrinsic dimension (TwoNN)"}
DIGITS = {"anisotropy": 3, "id_twonn": 1}


def print_tables(uri: str) -> None:
    """Anisotropy and intrinsic dimension of every history and corpus, the peak of each table marked."""
    reader, out = lakes.open_lake(uri), console()
    histories = reader.sql("select distinct model, corpus from layers order by model, corpus desc").fetchall()
    for model, corpus in histories:
        for column, words in TABLE_TITLES.items():
            out.print(f"\n{model} on {corpus}: {words}, layer by step; * marks the peak", markup=False, style="bold")
            _print_table(out, reader, _query(reader, column, model, corpus), DIGITS[column])
    rows = reader.sql("select count(*) from layers").fetchall()[0][0]
    query = _query(reader, "anisotropy", *histories[0])
    out.print(f"\nlake      {uri}  ({rows} rows)", markup=False)
    out.print(f'query     shapelake query "{query}" --lake {uri}', markup=False)


def _query(reader: LakeReader, column: str, model: str, corpus: str) -> str:
    """One line of SQL that gives the table; the steps are named, for a pivot orders them as words."""
    where = f"model = '{model}' and corpus = '{corpus}'"
    steps = reader.sql(f"select distinct step from layers where {where} order by step").fetchall()
    listed = ", ".join(str(step) for (step,) in steps)
    rows = f"select layer, state, step, {column} from layers where {where}"
    return f"pivot ({rows}) on step in ({listed}) using first({column}) order by layer"


def _print_table(out: Console, reader: LakeReader, query: str, digits: int) -> None:
    found = reader.sql(query)
    rows = found.fetchall()
    peak = max((value for row in rows for value in row[2:] if value is not None), default=None)
    table = Table(box=None, header_style="bold")
    for name in found.columns:
        table.add_column(name, justify="left" if name == "state" else "right")
    for layer, state, *values in rows:
        table.add_row(str(layer), state, *(_format_value(value, peak, digits) for value in values))
    out.print(table)


def _format_value(value: Any, peak: float | None, digits: int) -> Text:
    if value is None:
        return Text("- ")
    mark = "*" if value == peak else " "
    return Text(f"{value:.{digits}f}{mark}", style="bold" if value == peak else "")
