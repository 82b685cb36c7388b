"""Checkpoint fields derived from file contents and the training point, for local folders and the Hub alike."""

import hashlib
from typing import Any, NamedTuple

from pipeline.catalog.architectures import bytes_per_parameter, count_blocks, infer_kinds, parse_config
from pipeline.catalog.checkpoint_files import CONFIG_FILE, CheckpointFiles
from pipeline.catalog.digests import FileHashes
from pipeline.catalog.revision_names import TrainingPoint
from pipeline.spec import Checkpoint, ModelKind


class ConfigFacts(NamedTuple):
    """Facts about a model that its config.json states."""

    kinds: tuple[ModelKind, ...]
    bytes_per_parameter: int
    n_blocks: int | None


_FACTS: dict[str, ConfigFacts] = {}
"""Cache of the facts by sha256 of config.json; most checkpoints of a history have the same config.json."""


def build_checkpoint_fields(files: CheckpointFiles, hashes: FileHashes, point: TrainingPoint) -> dict[str, Any]:
    """Return the fields of a Checkpoint except its label and its file locations."""
    facts, weight_bytes = _read_facts(files, hashes), sum(files.size(name) for name in hashes.weights)
    return {
        **{"kinds": facts.kinds, "n_params": weight_bytes // facts.bytes_per_parameter or None},
        "n_blocks": facts.n_blocks,
        **{"step": point.step, "tokens_seen": point.tokens, "tokens_source": point.tokens_source},
        **{"stage": point.stage, "run": point.run, **hashes.digests},
    }


def put_on_base(adapter: Checkpoint, base: Checkpoint, own_tokenizer: bool) -> Checkpoint:
    """Return the adapter's checkpoint with the fields that it takes from its base model.

    These are the kinds, the sizes and the location of the base model, and its tokenizer if the adapter has none.
    """
    names = ["kinds", "n_params", "n_blocks"]
    names += [] if own_tokenizer else ["tokenizer_path", "tokenizer_remote", "tokenizer_digest"]
    fields = {name: getattr(base, name) for name in names}
    return adapter.model_copy(update={**fields, "base_path": base.path, "base_remote": base.remote})


def _read_facts(files: CheckpointFiles, hashes: FileHashes) -> ConfigFacts:
    sha256 = hashes.config.get(CONFIG_FILE, "")
    if sha256 in _FACTS:
        return _FACTS[sha256]
    try:
        data = files.read(CONFIG_FILE) if CONFIG_FILE in files.names else b""
    except OSError:
        data = b""
    config = parse_config(data)
    facts = ConfigFacts(infer_kinds(config), bytes_per_parameter(config), count_blocks(config))
    if hashlib.sha256(data).hexdigest() == sha256:  # else the file changed since it was hashed
        _FACTS[sha256] = facts
    return facts
