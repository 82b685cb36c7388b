"""What the files and the name of a checkpoint say about it: the same for a folder and for the Hub."""

from typing import Any

from pipeline.catalog.architectures import bytes_per_parameter, infer_kinds, parse_config
from pipeline.catalog.checkpoint_files import CheckpointFiles
from pipeline.catalog.digests import FileHashes, weight_bytes
from pipeline.catalog.revision_names import TrainingPoint


def build_checkpoint_fields(files: CheckpointFiles, content: FileHashes, place: TrainingPoint) -> dict[str, Any]:
    """The fields of a Checkpoint that are neither its label nor where its files are."""
    config = parse_config(files)
    return {
        "kinds": infer_kinds(config),
        "n_params": weight_bytes(files) // bytes_per_parameter(config) or None,
        "step": place.step,
        "tokens_seen": place.tokens,
        "tokens_source": place.tokens_source,
        "stage": place.stage,
        "run": place.run,
        **content.digests,
    }
