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
"""Values of `init_lora_weights` that change the base model's weights; the adapter's files do not record this change."""
OTHER_LAYERS = ("layer_replication", "target_parameters", "trainable_token_indices", "alora_invocation_tokens")
OTHER_FORMS = re.compile(rf"use_(?!rslora).*|{'|'.join(OTHER_LAYERS)}|(arrow|velora|kasa|monteclora)_config")
"""Fields of a LoRA config that, when set, make the merged weights differ from W + scale * B @ A, such as use_dora."""


def find_adapter_weights(files: "CheckpointFiles") -> str | None:
    """Return the name of the weight file of an adapter; None without an adapter."""
    names = files.names
    return next((name for name in ADAPTER_WEIGHTS if name in names), None) if ADAPTER_CONFIG in names else None


def read_adapter_config(files: "CheckpointFiles") -> dict[str, Any]:
    """Return the parsed adapter_config.json; empty if it is not a JSON object."""
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
        return f"init_lora_weights {start!r} changes the base model itself, unless it is converted to a plain LoRA"
    other = next((name for name, value in raw.items() if OTHER_FORMS.fullmatch(name) and value), None)
    return f"its field {other!r} is set, and only plain LoRA can be merged" if other else None


def describe_adapter(files: "CheckpointFiles") -> tuple[str, str]:
    """Describe the problem of a folder that has only an adapter, and the next step, for an error message."""
    if find_adapter_weights(files) is None:
        return f"a peft adapter without weights ({ADAPTER_CONFIG})", f"Add {' or '.join(ADAPTER_WEIGHTS)}"
    raw = read_adapter_config(files)
    if why := why_not_mergeable(raw):
        do = "Merge it with peft: PeftModel.from_pretrained(base, FOLDER).merge_and_unload().save_pretrained(OUT)"
        return f"a peft adapter: {why}", do
    named = raw.get("base_model_name_or_path")
    base = named if isinstance(named, str) and named else "FOLDER or REPO@REVISION"
    stated = f", and {ADAPTER_CONFIG} names {base}" if base is named else ""
    do = f"Name its base model: {{local: FOLDER, base: {base}}}, or --base {base}"
    return f"a peft adapter without a base model{stated}", do
