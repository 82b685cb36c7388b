"""Checkpoints of a trained decoder and a trained encoder, downloaded once and kept in the cache folder."""

import os
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

from pipeline import cache
from pipeline.demo.model_packages import (
    DECODER_FILE,
    ENCODER_FILE,
    create_atomically,
    install_packages,
    remove_partial_folders,
    wait_for,
)
from pipeline.errors import UsageError
from pipeline.progress import Progress

CACHE_FOLDER = "trained-models-v1"
"""Name of the folder in the cache. Raise its version if the packages or the conversion change."""
DECODER, ENCODER = "SmolLM2-135M-Instruct", "all-MiniLM-L6-v2"
ENCODER_CONTENT = (
    *("config.json", "model.safetensors", "tokenizer.json"),
    *("tokenizer_config.json", "special_tokens_map.json"),
)
PACKAGE_PARENT = Path(__file__).resolve().parents[2]


def provide_trained_models() -> dict[str, Path]:
    """Return the checkpoint folder of each model by name; download and convert missing models.

    Raises:
        UsageError: the packages cannot be installed, a file of a package is damaged, or the cache cannot be written.
    """
    root = cache.folder(CACHE_FOLDER)
    folders = {name: root / name for name in (DECODER, ENCODER)}
    if all(folder.is_dir() for folder in folders.values()):
        return folders
    try:
        with cache.hold_file_lock(root / "all"):
            _provide_missing(root, folders)
    except OSError as error:
        do = "Set SHAPELAKE_CACHE to a writable folder"
        raise UsageError(f"cache folder {root}", error.strerror or str(error), do) from error
    return folders


def _provide_missing(root: Path, folders: dict[str, Path]) -> None:
    remove_partial_folders(root)
    missing = [name for name, folder in folders.items() if not folder.is_dir()]
    packages = install_packages(root) if missing else root
    for name in missing:
        with create_atomically(folders[name]) as partial:
            CONVERTERS[name](packages, partial)


def _convert_decoder(packages: Path, target: Path) -> None:
    """Dequantise the GGUF file in a process of its own, so that only that process loads code from the packages."""
    words = [sys.executable, "-m", "pipeline.demo.convert_gguf", str(packages / DECODER_FILE), str(target)]
    path = os.pathsep.join([str(PACKAGE_PARENT), str(packages), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path.rstrip(os.pathsep)}
    progress = Progress(f"Converting {DECODER} from GGUF", None, "seconds")
    if reason := wait_for(words, environment, progress, watched=None):
        do = "Free 2 GB of memory and 0.6 GB of disk space, then run the command again"
        raise UsageError(f"conversion of {packages / DECODER_FILE}", reason, do)


def _unpack_encoder(packages: Path, target: Path) -> None:
    with zipfile.ZipFile(packages / ENCODER_FILE) as archive:
        for name in ENCODER_CONTENT:
            archive.extract(name, target)


CONVERTERS: dict[str, Callable[[Path, Path], None]] = {DECODER: _convert_decoder, ENCODER: _unpack_encoder}
