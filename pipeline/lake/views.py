"""The SQL of the three views, over the tables `measured` (rows as committed), `labels`, `audited` and
`tombstones`."""

from pipeline.columns import names

DIGESTS = ("weights_digest", "config_digest", "tokenizer_digest")
"""What two labels must share to share a measurement."""
OF_LABEL = (
    *("model", "family", "revision", "commit_sha", "step", "tokens_seen", "tokens_source", "stage", "run"),
    *("duplicate_of", "superseded"),
)
"""Columns that a label decides; the rest belongs to the content."""
UNKNOWN = {"duplicate_of": "NULL", "superseded": "false"}
"""Columns that no cell knows of itself."""
MEASUREMENT = (
    *("model", "revision", *DIGESTS, "corpus", "corpus_sha256"),
    *("kind", "recipe", "recipe_fingerprint"),
)
"""Rows equal in these, at one layer, are versions of one measurement: the newest algorithm counts."""
OF_CONTENT = tuple(name for name in names("model", "checkpoint") if name not in (*OF_LABEL, *DIGESTS, "kind"))
OF_CELL = (
    *(name for name in names("keys", "model", "checkpoint", "text") if name not in ("cell_id", *UNKNOWN)),
    *("device", "run_id", "written_at", "attempt"),
)
CELL_COST = ("load_s", "forward_s", "total_s", "peak_device_mib", "peak_host_mib", "download_bytes")
LAYER_COST = ("knn_s", "spectrum_s")


def _labelled(name: str, own: str) -> str:
    """`name` as the label says it; a cell whose label record is lost is its own label."""
    return f"CASE WHEN l.content IS NULL THEN {UNKNOWN.get(name, f'{own}.{name}')} ELSE l.{name} END AS {name}"


def _each(form: str, columns: tuple[str, ...]) -> str:
    return ", ".join(form.format(name) for name in columns)


LAYERS = f"""
CREATE VIEW layers AS
FROM (
    SELECT {", ".join(_labelled(name, "r") if name in OF_LABEL else f"r.{name}" for name in names())}
    FROM measured r LEFT JOIN labels l USING ({", ".join(DIGESTS)})
    WHERE r.cell_id NOT IN (FROM tombstones)
)
QUALIFY algorithm IS NOT DISTINCT FROM max(algorithm) OVER (PARTITION BY {", ".join((*MEASUREMENT, "layer"))})
"""

CELLS = f"""
CREATE VIEW cells AS
SELECT cell_id, {_each("any_value({0}) AS {0}", OF_CELL)}, count(*) AS rows,
    ['ok', 'degenerate', 'nonfinite'][
        max(CASE status WHEN 'ok' THEN 1 WHEN 'degenerate' THEN 2 ELSE 3 END)] AS status,
    {_each("max({0}) AS {0}", CELL_COST)}, {_each("sum({0}) AS {0}", LAYER_COST)},
    cell_id IN (FROM tombstones) AS hidden
FROM measured GROUP BY cell_id
"""

AUDITED = ("step", "tokens_seen", "stage", "run", "family", "commit_sha")
"""Columns of `checkpoints` that the audit alone knows of a revision that was never measured."""

CHECKPOINTS = f"""
CREATE VIEW checkpoints AS
WITH c AS (
    SELECT {", ".join(DIGESTS)}, {_each("any_value({0}) AS {0}", (*OF_CONTENT, *OF_LABEL[:-2]))},
        list_sort(list(DISTINCT kind)) AS kinds, min(written_at) AS first_seen
    FROM cells GROUP BY {", ".join(DIGESTS)}
), known AS (
    SELECT {", ".join(_labelled(name, "c") for name in OF_LABEL)}, {", ".join(DIGESTS)}, l.content,
        {_labelled("kinds", "c")}, coalesce(l.kinds, c.kinds)[1] AS kind, {_each("c.{0}", OF_CONTENT)},
        {_labelled("first_seen", "c")}
    FROM c FULL JOIN labels l USING ({", ".join(DIGESTS)})
)
SELECT coalesce(known.model, a.model) AS model, coalesce(known.revision, a.revision) AS revision,
    {_each("coalesce(known.{0}, a.{0}) AS {0}", AUDITED)},
    coalesce(known.weights_digest, a.weights_digest) AS weights_digest,
    known.* EXCLUDE (model, revision, weights_digest, {", ".join(AUDITED)}),
    known.content IS NOT NULL OR known.config_digest IS NOT NULL AS measured, a.state AS audit, a.findings
FROM known FULL JOIN audited a
    ON known.model = a.model AND known.revision = a.revision AND NOT coalesce(known.superseded, false)
"""
