"""Checkpoint fields derived from file contents and the training point, for local folders and the Hub alike."""

from typing import Any

from pipeline.catalog.architectures import bytes_per_parameter, infer_kinds, parse_config
from pipeline.catalog.checkpoint_files import CheckpointFiles
from pipeline.catalog.digests import FileHashes, weight_bytes
from pipeline.catalog.revision_names import TrainingPoint


def build_checkpoint_fields(files: CheckpointFiles, hashes: FileHashes, point: TrainingPoint) -> dict[str, Any]:
    """Return the fields of a Checkpoint except its label and its file locations."""
    config = parse_config(files)
    return {
        **{"kinds": infer_kinds(config), "n_params": weight_bytes(files) // bytes_per_parameter(config) or None},
        **{"step": point.step, "tokens_seen": point.tokens, "tokens_source": point.tokens_source},
        **{"stage": point.stage, "run": point.run, **hashes.digests},
    }
