"""A sweep from a YAML file or a Python module: the same model either way."""

import importlib
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from pipeline.errors import UsageError
from pipeline.noun import first_problem
from pipeline.spec import Sweep


def load_sweep(name: str) -> Sweep:
    """The sweep `name`: a YAML file, or a module that defines SWEEP.

    Relative paths count from the YAML file's folder, in a module from the working folder.
    """
    if Path(name).suffix in (".yaml", ".yml"):
        return _validated(name, _read_yaml(Path(name))).relative_to(Path(name).resolve().parent)
    return _from_module(name).relative_to(Path.cwd())


def override(sweep: Sweep, overrides: Iterable[str]) -> Sweep:
    """The sweep with `dotted.key=value` applied and checked again."""
    overrides = tuple(overrides)
    if not overrides:
        return sweep
    return _validated(sweep.name, overlaid(sweep.model_dump(mode="json"), overrides))


def overlaid(fields: dict[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """`fields` with each `dotted.key=value` put in, the value read as YAML."""
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise UsageError(f"--set {text}", "no key=value", "Write it as --set resources.cpus=4")
        *parents, last = key.split(".")
        place = fields
        for parent in parents:
            inner = place.setdefault(parent, {})
            if not isinstance(inner, dict):
                raise UsageError(f"--set {text}", f"{parent} is {inner!r}, not a group of fields", "Set it whole")
            place = inner
        place[last] = parsed(f"--set {text}", value)
    return fields


def parsed(asked: str, text: str) -> Any:
    """The value of `text` as YAML."""
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:  # the latter for a date such as 2026-13-45
        raise UsageError(asked, f"no YAML: {' '.join(str(error).split())}", "Correct it") from error


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text()
    except OSError as error:
        raise UsageError(f"sweep {path}", error.strerror or str(error), "Name a YAML file or a module") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"sweep {path}", f"no text: {error}", "Name a YAML file or a module") from error
    fields = parsed(f"sweep {path}", text)
    if not isinstance(fields, dict):
        raise UsageError(f"sweep {path}", "no fields", "See the README for a sweep to start from")
    return fields


def _from_module(name: str) -> Sweep:
    absent = UsageError(
        f"sweep {name or repr(name)}",
        "neither a YAML file nor a module here",
        "Name one, such as jobs.local or sweep.yaml",
    )
    if not all(part.isidentifier() for part in name.split(".")):
        raise absent
    sys.path.insert(0, "")
    try:
        sweep = getattr(importlib.import_module(name), "SWEEP", None)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        raise absent from error
    finally:
        sys.path.remove("")
    if not isinstance(sweep, Sweep):
        raise UsageError(f"sweep {name}", "the module defines no SWEEP", "Give it SWEEP = Sweep(...)")
    return sweep


def _validated(name: str, fields: dict[str, Any]) -> Sweep:
    try:
        return Sweep.model_validate(fields)
    except ValidationError as error:
        raise UsageError(f"sweep {name}", first_problem(error), "Correct it") from error
