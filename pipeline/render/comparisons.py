"""Terminal output of `shapelake compare`: two sides, or a run and its population, as a line per metric or all rows."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.render.findings import print_aligned
from pipeline.render.tables import print_rows
from pipeline.terminal import escape_control, print_line

LAYER_COLUMNS = (
    "metric",
    "corpus",
    "recipe",
    "kind",
    "step",
    "layer",
    "layer_b",
    "a",
    "b",
    "difference",
    "low",
    "high",
)
SIMILARITY_COLUMNS = (
    *("corpus", "recipe", "kind", "step", "layer", "other_layer", "tokens", "cka", "cka_low", "cka_high", "cka_bound"),
    *("overlap_1", "overlap_4", "overlap_16", "overlap_4_null"),
)


def print_comparison(comparison: Any, layers: bool = False) -> None:
    """Print one line per metric, corpus, recipe and kind, or with `layers` every row.

    The lines of two histories are those of the last common step of each corpus, recipe and kind.
    """
    last = comparison.last_rows().to_dicts()
    print_line(escape_control(f"a: {comparison.first}"))
    print_line(escape_control(f"b: {comparison.second}"))
    if comparison.of == "histories":
        steps = sorted({*comparison.rows["step"]})
        one = "the last of each corpus, recipe and kind" if _differ_in_step(last) else f"{steps[-1]:,}"
        print_line(f"{len(steps)} common steps, {steps[0]:,} to {steps[-1]:,}; shown: {'all' if layers else one}")
    print_line(
        "difference b - a of the means over the blocks, with its 95 % interval; the layer that differs most; the number"
    )
    print_line("of layers that differ significantly (95 % for each layer alone)")
    if layers:
        print_rows(LAYER_COLUMNS, [[row[name] for name in LAYER_COLUMNS] for row in comparison.rows.to_dicts()])
    else:
        print_aligned([_cells(group, _differ_in_step(last)) for group in _group(last)])
    _print_similarity(comparison, layers)
    for note in comparison.notes:
        print_line(f"note: {note}")


def _print_similarity(comparison: Any, layers: bool) -> None:
    """Print the range of each similarity over the layers; with `layers`, print every row instead.

    For histories, the range is that of the last step that has a similarity, for each corpus, recipe and kind.
    """
    last = [row | {"metric": ""} for row in comparison.last_similarity().to_dicts()]
    if not last:
        return
    several = _differ_in_step(last)
    at = "" if layers or several or last[0]["step"] is None else f" at step {last[0]['step']:,}"
    print_line(
        f"similarity of corresponding layers{at} on the same tokens: 1 = equal geometry up to rotation and scale;"
    )
    print_line("bound: largest distance of a CKA from that of the whole kernels")
    if layers:
        every = comparison.similarity.to_dicts()
        print_rows(SIMILARITY_COLUMNS, [[row[name] for name in SIMILARITY_COLUMNS] for row in every])
        return
    print_aligned([_similarity_cells(name, group, several) for group in _group(last) for name in ("cka", "overlap_4")])


def _similarity_cells(name: str, rows: Sequence[Mapping[str, Any]], several: bool) -> list[str]:
    known = sorted((row for row in rows if row[name] is not None), key=lambda row: row[name])
    start = [name, rows[0]["corpus"] + _at_step(rows[0], several), rows[0]["recipe"]]
    if not known:
        return [*map(escape_control, start), "unknown", ""]
    ends = (known[0], known[-1])
    shown = (f"{row[name]:.3f}{format_limits(row, name)}{_bound(row, name)} in layer {row['layer']}" for row in ends)
    null = f"unrelated layers have {known[0][f'{name}_null']:.3f}"
    return [escape_control(cell) for cell in (*start, " to ".join(shown), null)]


def _bound(row: Mapping[str, Any], name: str) -> str:
    """Format the bound of a CKA: `, bound 0.031,`; empty for other measures, and for a CKA without one."""
    return f", bound {row['cka_bound']:.3f}," if name == "cka" and row["cka_bound"] is not None else ""


def _differ_in_step(rows: Sequence[Mapping[str, Any]]) -> bool:
    return len({row["step"] for row in rows}) > 1


def _at_step(row: Mapping[str, Any], several: bool) -> str:
    """Format the step of a line if the lines are of several steps: ` at step 1,000`."""
    return f" at step {row['step']:,}" if several else ""


def format_limits(row: Mapping[str, Any], name: str) -> str:
    """Format the 95 % interval of column `name` as ` (0.101 to 0.145)`; return an empty text if there is none."""
    return "" if row[f"{name}_low"] is None else f" ({row[f'{name}_low']:.3f} to {row[f'{name}_high']:.3f})"


def _group(rows: Sequence[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """Group the rows by metric, corpus, recipe and kind; groups and rows keep their order."""
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in ("metric", "corpus", "recipe", "kind")), []).append(row)
    return list(groups.values())


def _cells(rows: Sequence[Mapping[str, Any]], several: bool) -> list[str]:
    mean = next((row for row in rows if row["layer"] is None), rows[0])
    text = mean["corpus"] if mean["corpus"] == mean["corpus_b"] else f"{mean['corpus']}, {mean['corpus_b']}"
    text += _at_step(mean, several)
    sides = f"{mean['a']:.4g} -> {mean['b']:.4g}"
    layers = [row for row in rows if row["layer"] is not None]
    ending = ""
    if layers:
        most = max(layers, key=lambda row: abs(row["difference"]))
        apart = sum(row["low"] is not None and row["low"] * row["high"] > 0 for row in layers)
        ending = f"layer {most['layer']}: {format_difference(most)}; {apart} of {len(layers)} layers differ"
    cells = [mean["metric"], text, mean["recipe"], sides, format_difference(mean), ending]
    return [escape_control(cell) for cell in cells]


def format_difference(row: Mapping[str, Any]) -> str:
    """Format a difference with its interval: `+0.123 (+0.101 to +0.145)`."""
    limits = "" if row["low"] is None else f" ({row['low']:+.3g} to {row['high']:+.3g})"
    return f"{row['difference']:+.3g}{limits}"


def print_population(found: Any, summary: Sequence[Mapping[str, Any]], layers: bool = False) -> None:
    """Print one line per row of `summary`, at the last step; with `layers`, print every layer and step instead."""
    print_line(escape_control(f"{found.run} against {len(found.others)} other runs of its size"))
    if layers:
        columns = ("metric", "corpus", "recipe", "step", "layer", "value", "median", "low", "high", "runs", "below")
        print_rows(columns, [[row[name] for name in columns] for row in found.rows.to_dicts()])
    else:
        print_line("mean over the blocks at the last step; median and band (percentiles 5 to 95) of the others")
        print_aligned([_population_cells(row) for row in summary])
    for note in found.notes:
        print_line(f"note: {note}")


def _population_cells(row: Mapping[str, Any]) -> list[str]:
    band = f"{row['median']:.4g} ({row['low']:.4g} to {row['high']:.4g})"
    place = f"above {row['below'] * row['runs']:.0f} of {row['runs']} runs"
    share = f"outside of all others at {row['outside_share']:.0%} of {row['points']} layers and steps"
    chance = f"{row['chance']:.0%} expected by chance"
    cells = [
        row["metric"],
        row["corpus"],
        f"step {row['step']:,}",
        f"{row['value']:.4g}",
        band,
        place,
        f"{share}; {chance}",
    ]
    return [escape_control(cell) for cell in cells]
