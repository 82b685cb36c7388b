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
    **{f"{name}_tokens": pl.Int64() for name in OVERLAPS},
    **{f"{name}{end}": pl.Float64() for name in ("imbalance", "imbalance_back") for end in ("", "_low", "_high")},
}


def similarity_of_records(
    first: CellRecords, second: CellRecords, pairs: Sequence[tuple[int, int]] | None = None
) -> pl.DataFrame:
    """Compute the similarity of pairs of layers of two cells, on the tokens that are ordinary (no sinks) in both.

    Columns, one row per pair of layers:

    - `layer`, `depth`, `state`: those of the layer of the first cell
    - `other_layer`, `other_depth`: those of the layer of the second cell
    - `tokens`: number of compared tokens
    - `cka`: debiased CKA
    - `cka_bound`: largest possible distance of `cka` from the CKA of the whole kernels
    - `overlap_1`, `overlap_4`, `overlap_16`: overlap of the nearest 1, 4 or 16 neighbours; null if the records have
      fewer neighbours, or if no token has so many ordinary ones
    - `imbalance`: information imbalance from the first layer to the second; 0 if the first layer predicts the
      neighbours in the second, 1 if it has no information on them
    - `imbalance_back`: the same from the second layer to the first; both are null unless both records have ranks
      (`similarity: {ranks: true}`)
    - the limits of the 95 % intervals of all these measures, with the endings `_low` and `_high`; null with a single
      group of contexts, and for an `overlap_1` that rests on too few tokens (MIN_COUNTED)
    - the expected value of unrelated layers of the CKA and the overlaps, with the ending `_null`
    - the number of compared tokens that count in each overlap, with the ending `_tokens`: those that keep so many
      ordinary neighbours in both layers

    Args:
        pairs: pairs of a layer of the first cell and a layer of the second; by default those of `match_layers`.

    Raises:
        UsageError: the records are not of the same tokens, or too few tokens are ordinary in both cells.
    """
    tokens = shared_tokens([first, second])
    if not can_compare(tokens):
        asked = f"similarity of {first.about['model']} and {second.about['model']}"
        raise UsageError(
            asked,
            f"only {tokens.count} tokens are ordinary (no sinks) in both",
            "Record more tokens: raise similarity.tokens in the sweep",
        )
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
    """Return one text per measure that is null in a layer: the number of these layers, and the reason."""
    reasons = []
    for name in MEASURES:
        null = found.filter(pl.col(name).is_null())
        if short := null[f"{name}_null"].null_count():
            reasons.append(f"{name} is null in {short} of {found.height} layers: the records have fewer neighbours")
        count = null.height - short
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
    k = OVERLAPS.get(measure, 0)
    for a, b in pairs:
        one, two = first.layers[a], second.layers[b]
        if k > min(one.neighbours.shape[1], two.neighbours.shape[1]):
            found.append({})
            continue
        pair = compare_layers([one], [two], tokens, measure)
        estimate = jackknife_estimate(pair.value[0, 0], pair.without[:, 0, 0])
        values = estimate_columns(measure, estimate)
        values[f"{measure}_null"] = expected_similarity(measure, tokens)
        bound = pair.bound[0, 0]
        known = measure == CKA and bool(np.isfinite(bound))
        values |= {"cka_bound": float(bound)} if known else {}
        found.append(values | ({f"{measure}_tokens": int(pair.counted[0, 0])} if k else {}))
    return found


def _imbalances(first: LayerRecord, second: LayerRecord, tokens: ComparedTokens) -> dict[str, float | None]:
    """Return the columns of the information imbalance in both directions, with intervals; none without ranks."""
    if first.ranks is None or second.ranks is None:
        return {}
    groups = tokens.groups if has_groups(tokens) else []
    whole = information_imbalance(first, second, tokens)
    without = [information_imbalance(first, second, tokens.only(tokens.group != group)) for group in groups]
    found: dict[str, float | None] = {}
    for way, name in enumerate(("imbalance", "imbalance_back")):
        found |= estimate_columns(name, jackknife_estimate(whole[way], [each[way] for each in without]))
    return found
