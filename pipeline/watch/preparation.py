"""Checks before a watch begins, and the lines that describe the watch at its start."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.catalog.architectures import count_blocks, parse_config
from pipeline.errors import UsageError
from pipeline.watch.alert_rules import LayerSelection
from pipeline.watch.checkpoint_folder import list_checkpoint_folders
from pipeline.watch.follower import WatchConfig
from pipeline.watch.notifier import check_target


def check_watch(config: WatchConfig, on_alert: str | None) -> None:
    """Check the folder, the alert target and the layers. The corpus was already checked when it was parsed.

    Raises:
        UsageError: no such folder, an invalid address, a command that is not found, or layers that the model lacks.
    """
    if on_alert:
        check_target(on_alert)
    if not config.folder.is_dir():
        raise UsageError(f"watch {config.folder}", "no such folder", "Name the folder that training saves into")
    blocks = _count_blocks(config)
    for selection in (config.layers, *(rule.layers for rule in config.rules)):
        _check_layers(selection, blocks)


def describe_watch(config: WatchConfig, every_s: float) -> Iterator[str]:
    """Yield lines on the watched folder, the measurement, the alert rules and the existing checkpoints."""
    present = list_checkpoint_folders(config.folder)
    yield f"watching {config.folder}: {len(present)} checkpoints there, {_count_known(config)} cells in the lake"
    yield f"measuring each sub-folder named by step once it is unchanged for {every_s:g} s or reported by training"
    yield f"on {config.corpus.id} with {config.recipe.label}, layers {config.layers.text}, into {config.lake.uri}"
    yield f"alerts: {', '.join(map(str, config.rules)) or 'none'}"


def _count_known(config: WatchConfig) -> int:
    return len(config.lake.committed_cell_ids())


def _count_blocks(config: WatchConfig) -> int | None:
    """Return the number of blocks from the first config.json that states it; None if none does."""
    for folder in list_checkpoint_folders(config.folder):
        if (blocks := count_blocks(_read_config(folder.path))) is not None:
            return blocks
    return None


def _read_config(folder: Path) -> dict[str, Any]:
    """Return the fields of config.json; empty while the file is missing or incomplete."""
    try:
        return parse_config((folder / "config.json").read_bytes())
    except (OSError, ValueError):
        return {}


def _check_layers(selection: LayerSelection, blocks: int | None) -> None:
    last = selection.last if selection.last is not None else selection.first
    if blocks is not None and last is not None and last > blocks + 1:
        found = f"the model has layers 0 to {blocks + 1}"
        raise UsageError(f"layers {selection.text!r}", found, f"Write blocks, all, or a range such as 1-{blocks}")
