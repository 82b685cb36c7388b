"""What the files and the name of a checkpoint say about it: the same for a folder and for the Hub."""

from typing import Any

from pipeline.catalog.architectures import bytes_per_parameter, config_in, kinds
from pipeline.catalog.checkpoint_files import Files
from pipeline.catalog.digests import Content, weight_bytes
from pipeline.catalog.revision_names import Place


def facts(files: Files, content: Content, place: Place) -> dict[str, Any]:
    """The fields of a Checkpoint that are neither its label nor where its files are."""
    config = config_in(files)
    return {
        "kinds": kinds(config),
        "n_params": weight_bytes(files) // bytes_per_parameter(config) or None,
        "step": place.step,
        "tokens_seen": place.tokens,
        "tokens_source": place.tokens_source,
        "stage": place.stage,
        "run": place.run,
        **content.digests,
    }
