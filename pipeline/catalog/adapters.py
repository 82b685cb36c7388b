"""peft adapters: their files, their config, and the check whether an adapter can be merged into a base model."""

import json
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.catalog.checkpoint_files import CheckpointFiles

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
"""Weight files of an adapter in the order in which loading tries them."""
MERGED_TYPE = "LORA"
CHANGES_BASE = re.compile(r"(pissa|olora|loftq|corda|lora_ga).*")
"""Regex of the values of `init_lora_weights`, in lower case, for which peft changes the weights of the base model when
training starts. The adapter's files do not record the changed weights."""
OTHER_LAYERS = ("layer_replication", "target_parameters", "trainable_token_indices", "alora_invocation_tokens")
OTHER_FORMS = re.compile(rf"use_(?!rslora).*|{'|'.join(OTHER_LAYERS)}|(arrow|velora|kasa|monteclora)_config")
"""Regex of the LoRA config fields, such as use_dora, that must not be set: with them, merging does not give the weights
W + scale * B @ A."""


def find_adapter_weights(files: "CheckpointFiles") -> str | None:
    """Return the name of the adapter's weight file; None if adapter_config.json or every such file is absent."""
    names = files.names
    return next((name for name in ADAPTER_WEIGHTS if name in names), None) if ADAPTER_CONFIG in names else None


def read_adapter_config(files: "CheckpointFiles") -> dict[str, Any]:
    """Return the fields of adapter_config.json; an empty dict if the file is not a JSON object."""
    try:
        raw = json.loads(files.read(ADAPTER_CONFIG))
    except (ValueError, RecursionError):
        return {}
    return raw if isinstance(raw, dict) else {}


def why_not_mergeable(raw: dict[str, Any]) -> str | None:
    """Return the reason why an adapter with this parsed adapter_config.json cannot be merged; None if it can."""
    if not raw:
        return f"{ADAPTER_CONFIG} is not a JSON object"
    if raw.get("peft_type") != MERGED_TYPE:
        return f"its peft_type is {raw.get('peft_type')!r}, and only {MERGED_TYPE} can be merged"
    if CHANGES_BASE.fullmatch(start := str(raw.get("init_lora_weights")).lower()):
        return f"init_lora_weights {start!r} changes the base model itself, so convert the adapter to plain LoRA first"
    other = next((name for name, value in raw.items() if OTHER_FORMS.fullmatch(name) and value), None)
    return f"its field {other!r} is set, and only plain LoRA can be merged" if other else None


def describe_adapter(files: "CheckpointFiles") -> tuple[str, str]:
    """Return the problem of a folder that has only an adapter, and the next step: `found` and `do` of an error."""
    if find_adapter_weights(files) is None:
        return f"a peft adapter without weights ({ADAPTER_CONFIG})", f"Add {' or '.join(ADAPTER_WEIGHTS)}"
    raw = read_adapter_config(files)
    if why := why_not_mergeable(raw):
        do = "Merge it with peft: PeftModel.from_pretrained(base, FOLDER).merge_and_unload().save_pretrained(OUT)"
        return f"a peft adapter: {why}", do
    named = raw.get("base_model_name_or_path")
    base = named if isinstance(named, str) and named else "FOLDER or REPO@REVISION"
    stated = f", and {ADAPTER_CONFIG} names {base}" if base is named else ""
    do = f"Name its base model: base: {base} beside local or hub in the sweep, or --base {base}"
    return f"a peft adapter without a base model{stated}", do
