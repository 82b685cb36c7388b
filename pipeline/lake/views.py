"""The SQL of the three views, over the tables `measured` (rows as committed), `committed` (one row per cell), `labels`,
`audited`, `tombstones`, and `shown` and `borrowed`, which are made of these."""

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
"""Cells equal in these are versions of one measurement: the newest algorithm counts."""
OF_CONTENT = tuple(name for name in names("model", "checkpoint") if name not in (*OF_LABEL, *DIGESTS, "kind"))


def _labelled(name: str, own: str) -> str:
    """`name` as the label says it; a cell whose label record is lost is its own label."""
    return f"CASE WHEN l.content IS NULL THEN {UNKNOWN.get(name, f'{own}.{name}')} ELSE l.{name} END AS {name}"


def _each(form: str, columns: tuple[str, ...]) -> str:
    return ", ".join(form.format(name) for name in columns)


LABELLED = f"""
SELECT c.cell_id, c.algorithm, {", ".join(_labelled(name, "c") for name in OF_LABEL)},
    {_each("c.{0}", tuple(name for name in MEASUREMENT if name not in OF_LABEL))},
    l.content IS NULL OR (l.model = c.model AND l.revision = c.revision) AS own
FROM committed c LEFT JOIN labels l USING ({", ".join(DIGESTS)})
WHERE c.cell_id NOT IN (FROM tombstones)
"""
"""Every cell that is not hidden, under each of its labels; `own`: the one under which it was measured first."""

NAME = ("model", "revision")
LAYERS = f"""
CREATE VIEW layers AS
SELECT {", ".join(f"s.{name}" if name in OF_LABEL and name not in NAME else f"r.{name}" for name in names())}
FROM measured r JOIN shown s USING (cell_id) WHERE s.own
UNION ALL
SELECT {", ".join(f"s.{name}" if name in OF_LABEL else f"r.{name}" for name in names())}
FROM borrowed r JOIN shown s USING (cell_id) WHERE NOT s.own
"""
"""Under its own label a row is found by its own columns, which files are sorted and filtered by."""

CELLS = """
CREATE VIEW cells AS SELECT * EXCLUDE (key), cell_id IN (FROM tombstones) AS hidden FROM committed
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
