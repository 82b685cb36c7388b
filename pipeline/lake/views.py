"""SQL of the three views `layers`, `cells` and `checkpoints`.

The views read these tables:

- `measured`: all rows of the committed cells.
- `committed`: one row per committed cell.
- `labels`: one row per label and content.
- `audited`: one row per revision of the newest audit of each model.
- `tombstones`: the ids of the cells that have a tombstone.
- `visible`: one row per visible cell and label.
- `shared`: the rows of the cells that are visible under another label than the one under which they were measured.
"""

from pipeline.columns import column_names

DIGEST_COLUMNS = ("weights_digest", "config_digest", "tokenizer_digest")
"""Columns that identify a content. Labels with equal values in all three share their measurements."""
LABEL_DECIDED_COLUMNS = (
    *("model", "family", "revision", "commit_sha", "step", "tokens_seen", "tokens_source", "stage", "run"),
    *("duplicate_of", "superseded"),
)
"""Columns that depend on the label; the other columns depend on the content."""
UNLABELLED_DEFAULTS = {"duplicate_of": "NULL", "superseded": "false"}
"""Columns that only label records provide, with their value for a cell that has no label record."""
MEASUREMENT_COLUMNS = (
    *("model", "revision", *DIGEST_COLUMNS, "corpus", "corpus_sha256", "kind", "recipe", "recipe_fingerprint"),
)
"""Columns that identify a measurement. Of cells with equal values in all of them, only the newest algorithm version is
visible."""
_NOT_CONTENT = {*LABEL_DECIDED_COLUMNS, *DIGEST_COLUMNS, "kind"}
CONTENT_COLUMNS = tuple(name for name in column_names("model", "checkpoint") if name not in _NOT_CONTENT)


def _labelled(name: str, own: str) -> str:
    """Select `name` from the label record, or from the cell if its label record is lost."""
    default = UNLABELLED_DEFAULTS.get(name, f"{own}.{name}")
    return f"CASE WHEN l.content IS NULL THEN {default} ELSE l.{name} END AS {name}"


def _each(form: str, columns: tuple[str, ...]) -> str:
    return ", ".join(form.format(name) for name in columns)


SELECT_LABELLED_CELLS = f"""
SELECT c.cell_id, c.algorithm, {", ".join(_labelled(name, "c") for name in LABEL_DECIDED_COLUMNS)},
    {_each("c.{0}", tuple(name for name in MEASUREMENT_COLUMNS if name not in LABEL_DECIDED_COLUMNS))},
    l.content IS NULL OR (l.model = c.model AND l.revision = c.revision) AS own
FROM committed c LEFT JOIN labels l USING ({", ".join(DIGEST_COLUMNS)})
WHERE c.cell_id NOT IN (FROM tombstones)
"""
"""Every cell that is not hidden, under each of its labels; `own` marks the label under which it was measured."""

LABEL_ONLY_COLUMNS = tuple(name for name in LABEL_DECIDED_COLUMNS if name not in ("model", "revision"))


def _row_columns(from_label: tuple[str, ...]) -> str:
    return ", ".join(f"v.{name}" if name in from_label else f"r.{name}" for name in column_names())


CREATE_LAYERS_VIEW = f"""
CREATE VIEW layers AS
SELECT {_row_columns(from_label=LABEL_ONLY_COLUMNS)}
FROM measured r JOIN visible v USING (cell_id) WHERE v.own
UNION ALL
SELECT {_row_columns(from_label=LABEL_DECIDED_COLUMNS)}
FROM shared r JOIN visible v USING (cell_id) WHERE NOT v.own
"""
"""A row under the label under which it was measured keeps the stored model and revision, so that filters on these two
columns are applied while the files are scanned."""

CREATE_CELLS_VIEW = """
CREATE VIEW cells AS SELECT * EXCLUDE (key), cell_id IN (FROM tombstones) AS hidden FROM committed
"""

AUDIT_COLUMNS = ("step", "tokens_seen", "stage", "run", "family", "commit_sha")
"""Columns of `checkpoints` that come from the audit for a revision that was never measured."""

CREATE_CHECKPOINTS_VIEW = f"""
CREATE VIEW checkpoints AS
WITH c AS (
    SELECT {", ".join(DIGEST_COLUMNS)},
        {_each("any_value({0}) AS {0}", (*CONTENT_COLUMNS, *LABEL_DECIDED_COLUMNS[:-2]))},
        list_sort(list(DISTINCT kind)) AS kinds, min(written_at) AS first_seen
    FROM cells GROUP BY {", ".join(DIGEST_COLUMNS)}
), known AS (
    SELECT {", ".join(_labelled(name, "c") for name in LABEL_DECIDED_COLUMNS)}, {", ".join(DIGEST_COLUMNS)}, l.content,
        {_labelled("kinds", "c")}, coalesce(l.kinds, c.kinds)[1] AS kind, {_each("c.{0}", CONTENT_COLUMNS)},
        {_labelled("first_seen", "c")}
    FROM c FULL JOIN labels l USING ({", ".join(DIGEST_COLUMNS)})
)
SELECT coalesce(known.model, a.model) AS model, coalesce(known.revision, a.revision) AS revision,
    {_each("coalesce(known.{0}, a.{0}) AS {0}", AUDIT_COLUMNS)},
    coalesce(known.weights_digest, a.weights_digest) AS weights_digest,
    known.* EXCLUDE (model, revision, weights_digest, {", ".join(AUDIT_COLUMNS)}),
    known.content IS NOT NULL OR known.config_digest IS NOT NULL AS measured, a.state AS audit, a.findings
FROM known FULL JOIN audited a
    ON known.model = a.model AND known.revision = a.revision AND NOT coalesce(known.superseded, false)
"""
