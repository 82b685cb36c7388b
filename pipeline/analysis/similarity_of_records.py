"""Similarity of two cells layer by layer, from their records, as shown by `compare A B`."""

from collections.abc import Sequence

import numpy as np
import polars as pl

from pipeline.analysis.recorded_cells import has_groups
from pipeline.analysis.similarities import (
    CKA,
    MEASURES,
    OVERLAPS,
    can_compare,
    compare_layers,
    estimate_columns,
    expected_similarity,
    jackknife_estimate,
    shared_tokens,
)
from pipeline.errors import UsageError
from pipeline.lake.cell_records import CellRecords
from pipeline.similarity.neighbours import information_imbalance
from pipeline.similarity.record import ComparedTokens, LayerRecord

SCHEMA: dict[str, pl.DataType] = {
    **{"layer": pl.Int64(), "other_layer": pl.Int64(), "depth": pl.Float64(), "other_depth": pl.Float64()},
    **{"state": pl.String(), "tokens": pl.Int64(), "cka_bound": pl.Float64()},
    **{f"{name}{end}": pl.Float64() for name in MEASURES for end in ("", "_low", "_high", "_null")},
    **{f"{name}{end}": pl.Float64() for name in ("imbalance", "imbalance_back") for end in ("", "_low", "_high")},
}


def similarity_of_records(
    first: CellRecords, second: CellRecords, pairs: Sequence[tuple[int, int]] | None = None
) -> pl.DataFrame:
    """Similarity of pairs of layers of two cells on the tokens that are ordinary in both.

    Columns: `layer` and `depth` of the first cell, `other_layer` and `other_depth` of the second, `state` of the first,
    `tokens` compared; `cka` with `cka_bound` (largest difference from the CKA of whole kernels), `overlap_1`, `_4` and
    `_16`, each with its 95 % interval (`_low`, `_high`; null with one group of contexts, and for an `overlap_1` of
    under MIN_COUNTED tokens) and the value of unrelated layers (`_null`). An overlap is null where the records have
    fewer neighbours, or no token keeps this many ordinary ones. `imbalance` is the information imbalance from the first
    layer to the second, `imbalance_back` the reverse (0: predicts the neighbours of the other; 1: unrelated), with
    their intervals; null unless both records have ranks (`similarity: {ranks: true}`).

    Args:
        pairs: layers of the first and the second cell; by default each layer with the one nearest in depth.

    Raises:
        UsageError: the records are not of the same tokens, or too few of these are ordinary in both.
    """
    tokens = shared_tokens([first, second])
    if not can_compare(tokens):
        asked = f"similarity of {first.about['model']} and {second.about['model']}"
        raise UsageError(asked, f"{tokens.count} tokens are ordinary in both", "Record more tokens: similarity.tokens")
    chosen = match_layers(first, second) if pairs is None else list(pairs)
    columns = {name: _compare_pairs(first, second, chosen, tokens, name) for name in MEASURES}
    rows = [
        {
            **{"layer": a, "other_layer": b, "depth": first.depths[a], "other_depth": second.depths[b]},
            **{"state": first.states[a], "tokens": tokens.count},
            **{column: value for found in columns.values() for column, value in found[at].items()},
            **_imbalances(first.layers[a], second.layers[b], tokens),
        }
        for at, (a, b) in enumerate(chosen)
    ]
    return pl.DataFrame(rows, schema=SCHEMA)


def explain_nulls(found: pl.DataFrame) -> list[str]:
    """Reasons for similarities that are null although the records have enough neighbours."""
    reasons = []
    for name in MEASURES:
        count = found.filter(pl.col(name).is_null() & pl.col(f"{name}_null").is_not_null()).height
        lack = "a layer has no variance on the compared tokens"
        if k := OVERLAPS.get(name):
            lack = f"no compared token keeps {k} neighbours that are no sinks"
        reasons += [f"{name} is null in {count} of {found.height} layers: {lack}"] if count else []
    return reasons


def match_layers(first: CellRecords, second: CellRecords) -> list[tuple[int, int]]:
    """Pair each layer of `first` with the layer of `second` that has the same state and is nearest in depth."""
    pairs = []
    for layer in sorted(first.layers):
        near = [other for other in second.layers if second.states[other] == first.states[layer]]
        if near:
            pairs.append((layer, min(near, key=lambda other: abs(second.depths[other] - first.depths[layer]))))
    return pairs


def _compare_pairs(
    first: CellRecords, second: CellRecords, pairs: list[tuple[int, int]], tokens: ComparedTokens, measure: str
) -> list[dict[str, float | None]]:
    found: list[dict[str, float | None]] = []
    for a, b in pairs:
        one, two = first.layers[a], second.layers[b]
        if OVERLAPS.get(measure, 0) > min(one.neighbours.shape[1], two.neighbours.shape[1]):
            found.append({})
            continue
        pair = compare_layers([one], [two], tokens, measure)
        estimate = jackknife_estimate(pair.value[0, 0], pair.without[:, 0, 0])
        values = estimate_columns(measure, estimate)
        values[f"{measure}_null"] = expected_similarity(measure, tokens)
        bound = pair.bound[0, 0]
        known = measure == CKA and bool(np.isfinite(bound))
        found.append(values | ({"cka_bound": float(bound)} if known else {}))
    return found


def _imbalances(first: LayerRecord, second: LayerRecord, tokens: ComparedTokens) -> dict[str, float | None]:
    """Information imbalance both ways with jackknife intervals; empty without ranks."""
    if first.ranks is None or second.ranks is None:
        return {}
    groups = tokens.groups if has_groups(tokens) else []
    whole = information_imbalance(first, second, tokens)
    without = [information_imbalance(first, second, tokens.only(tokens.group != group)) for group in groups]
    found: dict[str, float | None] = {}
    for way, name in enumerate(("imbalance", "imbalance_back")):
        found |= estimate_columns(name, jackknife_estimate(whole[way], [each[way] for each in without]))
    return found
