"""Saved queries: frequent questions by name. `shapelake query @dome` runs the SQL below."""

from typing import NamedTuple

from pipeline.errors import UsageError
from pipeline.strict_model import suggest

QUERY_SIGN = "@"


class SavedQuery(NamedTuple):
    meaning: str
    sql: str


_SAVED = {
    "dome": SavedQuery(
        "anisotropy over depth at the last step of each history: the highest block against the first and the last",
        """
        SELECT model, kind, stage, run, corpus, recipe, step,
            arg_max(layer, anisotropy) AS peak_layer, arg_max(depth, anisotropy) AS peak_depth,
            max(anisotropy) AS peak, arg_max(anisotropy_se, anisotropy) AS peak_se,
            arg_min(anisotropy, layer) AS first_block, arg_max(anisotropy, layer) AS last_block,
            max(anisotropy_no_sink) AS peak_no_sink
        FROM layers WHERE state = 'block' AND NOT coalesce(superseded, false)
        GROUP BY model, kind, stage, run, corpus, corpus_sha256, recipe, revision, step
        QUALIFY row_number() OVER (
            PARTITION BY model, kind, stage, run, corpus, corpus_sha256, recipe ORDER BY step DESC NULLS LAST, revision
        ) = 1
        ORDER BY ALL
        """,
    ),
    "id-peak": SavedQuery(
        "the step at which each layer's dimension (id_twonn) is highest; `shapelake findings phases` tests it",
        """
        SELECT model, kind, stage, run, corpus, recipe, layer, count(*) AS steps,
            arg_max(step, id_twonn) AS peak_step, max(id_twonn) AS peak, arg_max(id_twonn_se, id_twonn) AS peak_se,
            arg_min(id_twonn, step) AS at_first_step, arg_max(id_twonn, step) AS at_last_step
        FROM layers WHERE step IS NOT NULL AND id_twonn IS NOT NULL AND NOT coalesce(superseded, false)
        GROUP BY model, kind, stage, run, corpus, corpus_sha256, recipe, layer
        ORDER BY ALL
        """,
    ),
    "sink": SavedQuery(
        "anisotropy with and without sink tokens, and the share of sinks in tokens and in variance",
        """
        SELECT model, kind, stage, run, corpus, recipe, step, revision, layer, anisotropy, anisotropy_no_sink,
            anisotropy_no_sink / nullif(anisotropy, 0) AS share_left,
            n_sink_tokens / nullif(n_tokens, 0) AS sink_token_share, sink_variance_share, context_tokens
        FROM layers WHERE state = 'block'
        ORDER BY ALL
        """,
    ),
    "audit": SavedQuery(
        "every checkpoint label with its audit, the label that it duplicates, and whether its content was replaced",
        """
        SELECT COLUMNS('^(model|revision|step|tokens_seen|stage|run|duplicate_of|superseded|audit|findings)$')
        FROM checkpoints
        ORDER BY model, step NULLS LAST, revision
        """,
    ),
    "coverage": SavedQuery(
        "labels, steps and rows whose status is not ok, per model, corpus and recipe",
        """
        SELECT model, kind, corpus, recipe, count(DISTINCT revision) AS labels, min(step) AS first_step,
            max(step) AS last_step, count(DISTINCT layer) AS layers, count(*) AS rows,
            count(*) FILTER (status <> 'ok') AS not_ok, max(written_at) AS last_written
        FROM layers
        GROUP BY model, kind, corpus, recipe
        ORDER BY ALL
        """,
    ),
}


def all_saved_queries() -> dict[str, SavedQuery]:
    """Return the saved queries by name, without the `@`."""
    return dict(_SAVED)


def resolve_query(text: str) -> str:
    """Return the SQL of `@name`; any other text unchanged.

    Raises:
        UsageError: no saved query has this name.
    """
    name = text.strip()
    if not name.startswith(QUERY_SIGN):
        return text
    name = name.removeprefix(QUERY_SIGN)
    if name not in _SAVED:
        known = ", ".join(f"{QUERY_SIGN}{each}" for each in _SAVED)
        found = f"no such saved query{suggest(name, list(_SAVED))}"
        raise UsageError(f"query {QUERY_SIGN}{name}", found, f"Use one of {known}")
    return _SAVED[name].sql
