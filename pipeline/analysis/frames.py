"""Functions that load the rows of a lake for the findings, select histories and checkpoints, and format intervals."""

import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import polars as pl
from scipy.special import stdtrit

from pipeline.lake.lake import RECIPES_PREFIX, Lake
from pipeline.lake.reader import LakeReader

LakeOrFrame = LakeReader | pl.DataFrame
"""A lake, or the frame that `load_layer_rows` returned for one."""
HISTORY_COLUMNS = ("model", "kind", "stage", "run", "corpus", "recipe")
RUN_COLUMNS = ("model", "stage", "run")
"""Columns that identify a training run of a model. Stages count as separate runs, since the steps of one stage need not
continue those of another."""
NAME_SEPARATOR = " · "
"""Text between the parts of the name of a run or a history."""
LABEL_COLUMNS = ("revision", "step")
METRICS_WITH_ERRORS = (
    *("anisotropy", "anisotropy_no_sink", "participation_ratio", "participation_ratio_no_sink"),
    *("id_twonn", "id_mle", "id_mle_c50", "id_mle_c90", "id_lb20", "id_authors", "loss"),
    *("id_twonn_types", "id_mle_types", "id_twonn_gaussian", "id_mle_gaussian"),
    *("effective_rank_sigma", "effective_rank_sigma_no_sink", "alpha", "alpha_no_sink", "linearity", "cosine_mean"),
)
"""Metrics that findings compare; their errors are in the columns with the endings `_se` and `_groups`."""
NEEDED_COLUMNS = (
    *("cell_id", "model", "kind", "stage", "run", "corpus", "corpus_sha256", "recipe", "revision", "step"),
    *("weights_digest", "config_digest", "tokenizer_digest", "contexts_digest", "duplicate_of", "superseded"),
    *(
        "recipe_fingerprint",
        "algorithm",
        "n_params",
        "d_model",
        "tokens_seen",
        "context_tokens",
        "layer",
        "depth",
        "state",
    ),
    *("n_tokens", "n_sink_tokens", "n_points", "n_duplicates", "n_near_duplicates", "n_nonfinite", "n_unresolved"),
    *("n_contexts", "n_layer_sink_tokens", "abs_max", "abs_median", "norm_max", "norm_median", "linearity_residual"),
    *("same_context_share", "same_token_share", "noise_ratio", "sink_variance_share", "total_variance", "id_ks"),
    *(f"{name}{end}" for name in METRICS_WITH_ERRORS for end in ("", "_se", "_groups")),
    *("id_gride_k", "id_gride", "id_gride_se", "id_gride_4_groups", "id_gride_16_groups", "status", "flags"),
)
AUDIT_KEYS = ("model", "revision", "weights_digest")


def load_layer_rows(lake: LakeOrFrame) -> pl.DataFrame:
    """Load the columns of a lake that findings use, and add four; a frame is returned unchanged.

    The added columns:

    - `groups`: number of context groups of the recipe, over which standard errors are taken; null if the lake has no
      record of the recipe
    - `audit`: audit state of the checkpoint; null if it was not audited
    - `records`: list of the keys of the cell's files of similarity records, one per size; null if there are none
    - `lake`: URI of the lake that has these files; null if there are none

    A corpus name that different texts share gets a part of the text's digest appended.
    """
    if isinstance(lake, pl.DataFrame):
        return lake
    frame = lake.query_frame(select_needed_columns_sql())
    counts, audits, records = load_group_counts(lake.uri), load_audit_states(lake), load_record_keys(lake.uri)
    return complete_rows(frame, counts, audits, records, shared_corpus_names(frame))


def select_needed_columns_sql() -> str:
    """Return the SQL query that selects the columns that findings use, without a WHERE clause."""
    return "SELECT " + ", ".join(f'"{name}"' for name in NEEDED_COLUMNS) + " FROM layers"


def complete_rows(
    frame: pl.DataFrame,
    groups: pl.DataFrame,
    audits: pl.DataFrame,
    records: pl.DataFrame,
    shared_names: Collection[str],
) -> pl.DataFrame:
    """Add `groups`, `audit`, `records` and `lake` to the rows of a query, make corpus names unique, and sort the rows.

    Args:
        shared_names: corpus names that different texts of the lake share.
    """
    frame = frame.join(groups, on="recipe", how="left").join(audits, on=AUDIT_KEYS, how="left")
    frame = frame.join(records, on="cell_id", how="left")
    named = _append_digest(frame, pl.col("corpus").is_in(list(shared_names)))
    return named.sort(*HISTORY_COLUMNS, "step", "revision", "layer", "cell_id")


def shared_corpus_names(frame: pl.DataFrame) -> set[str]:
    """Return the corpus names that several different texts have."""
    texts = frame.group_by("corpus").agg(pl.col("corpus_sha256").n_unique())
    return set(texts.filter(pl.col("corpus_sha256") > 1)["corpus"])


def disambiguate_corpora(frame: pl.DataFrame) -> pl.DataFrame:
    """Append the first 8 digits of the text's digest to each corpus name that several different texts have."""
    return _append_digest(frame, pl.col("corpus").is_in(list(shared_corpus_names(frame))))


def _append_digest(frame: pl.DataFrame, is_shared: pl.Expr) -> pl.DataFrame:
    named = pl.concat_str("corpus", pl.lit("#"), pl.col("corpus_sha256").fill_null("none").str.head(8))
    return frame.with_columns(corpus=pl.when(is_shared).then(named).otherwise("corpus"))


def load_group_counts(uri: str | Path) -> pl.DataFrame:
    """Load the number of context groups of each recipe of which the lake has a record: columns `recipe`, `groups`."""
    store = Lake(uri).store
    records = [json.loads(store.get(key)) for key in store.list(RECIPES_PREFIX) if key.endswith(".json")]
    groups = [(f"{record['name']}@{record['version']}", record.get("groups", 1)) for record in records]
    return pl.DataFrame(groups, schema={"recipe": pl.String, "groups": pl.Int64}, orient="row")


def load_record_keys(uri: str | Path) -> pl.DataFrame:
    """Load a frame with one row per cell that has similarity records: `cell_id`, `records` (keys of files), `lake`."""
    keys: dict[str, list[str]] = {}
    for (cell_id, _), key in Lake(uri).record_files().items():
        keys.setdefault(cell_id, []).append(key)
    rows = [(cell_id, sorted(found), str(uri)) for cell_id, found in keys.items()]
    schema = {"cell_id": pl.String(), "records": pl.List(pl.String()), "lake": pl.String()}
    return pl.DataFrame(rows, schema=schema, orient="row")


def load_audit_states(lake: LakeReader) -> pl.DataFrame:
    """Load the audit state of each audited checkpoint; the frame is empty if no checkpoint has a column `audit`."""
    if "audit" not in lake.checkpoints().columns:
        return pl.DataFrame(schema=dict.fromkeys((*AUDIT_KEYS, "audit"), pl.String))
    audited = lake.query_frame(f"SELECT {', '.join(AUDIT_KEYS)}, audit FROM checkpoints WHERE audit IS NOT NULL")
    return audited.drop_nulls().group_by(AUDIT_KEYS).agg(pl.col("audit").first())


def select_history_rows(frame: pl.DataFrame) -> pl.DataFrame:
    """Select the rows of labels whose step is reliable, one row per history, layer and step.

    Superseded labels are left out. So are labels that have the same weights at different steps, since at most one of
    these steps is right.
    """
    one_step = pl.col("step").n_unique().over(*HISTORY_COLUMNS, "layer", "weights_digest") == 1
    stated = frame.filter(pl.col("step").is_not_null() & ~pl.col("superseded").fill_null(False))
    return stated.filter(one_step).unique([*HISTORY_COLUMNS, "layer", "step"], keep="first", maintain_order=True)


def select_newest_rows(frame: pl.DataFrame) -> pl.DataFrame:
    """Select the rows of one label per history: the one of the last reliable step.

    If no label of the history has a step, it is the last label in alphabetical order.
    """
    current = frame.filter(~pl.col("superseded").fill_null(False))
    steps = select_history_rows(current)
    without = current.filter(pl.col("step").is_null()).join(steps, on=HISTORY_COLUMNS, how="anti", nulls_equal=True)
    both = pl.concat([steps, without])
    last = both.sort("step", "revision", nulls_last=False).group_by(HISTORY_COLUMNS).agg(pl.col("revision").last())
    return both.join(last, on=[*HISTORY_COLUMNS, "revision"], nulls_equal=True)


def select_block_rows(frame: pl.DataFrame) -> pl.DataFrame:
    """Select the outputs of the blocks, without the embedding and the state after the final norm."""
    return frame.filter(pl.col("state") == "block")


def select_last_states(frame: pl.DataFrame) -> pl.DataFrame:
    """Select the rows of the last layer of each history: the state after the final norm if the model has one."""
    return frame.filter(pl.col("layer") == pl.col("layer").max().over(HISTORY_COLUMNS))


def run_name(*columns: str) -> pl.Expr:
    """Return the expression of a run's display name: the non-null values of `columns`, joined by ` · `.

    The default columns are model, stage and run.
    """
    return pl.concat_str([pl.col(name) for name in columns or RUN_COLUMNS], separator=NAME_SEPARATOR, ignore_nulls=True)


def load_trained_blocks(lake: LakeOrFrame) -> pl.DataFrame:
    """Load the rows of the outputs of the blocks at every reliable step."""
    return select_block_rows(select_history_rows(load_layer_rows(lake)))


def t_quantile(groups: pl.Expr) -> pl.Expr:
    """Return the expression of the 97.5 % quantile of Student's t with `groups` - 1 degrees of freedom.

    Null for fewer than two groups.
    """

    def quantiles(df: pl.Series) -> pl.Series:
        return pl.Series(df.name, stdtrit(df.cast(pl.Float64).to_numpy(), 0.975)).fill_nan(None)

    return (groups - 1).map_batches(quantiles, return_dtype=pl.Float64)


def add_because_column(frame: pl.DataFrame, sentence: Callable[[dict[str, Any]], str]) -> pl.DataFrame:
    """Add the column `because`, which has the text that `sentence` returns for each row."""
    return frame.with_columns(pl.Series("because", [sentence(row) for row in frame.iter_rows(named=True)], pl.String))


def format_interval(row: Mapping[str, Any], name: str, form: str = ".3f", level: str = "95 %") -> str:
    """Format a value with its interval: `0.412 (95 % 0.380 to 0.444)`; `unknown` if the value is null.

    The interval is left out if its limits are null.

    Args:
        row: row of a finding with the columns NAME, NAME_low and NAME_high.
        form: format of the three numbers.
        level: coverage of the interval, as a text.
    """
    value, low, high = (row[key] for key in (name, f"{name}_low", f"{name}_high"))
    if value is None:
        return "unknown"
    return f"{value:{form}}" + (f" ({level} {low:{form}} to {high:{form}})" if low is not None else "")
