"""Sweep configuration: load from a YAML file or a Python module, and apply `--set` overrides."""

import importlib
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from yaml.composer import ComposerError

from pipeline.errors import UsageError
from pipeline.spec import Sweep
from pipeline.strict_model import format_first_error

YAML_ERRORS = (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, RecursionError)
"""Exceptions that the YAML parser raises for invalid text, including bad numbers, unknown tags and deep nesting."""


REQUIRED_FIELDS = "name, checkpoints: [{local: PATH}], corpora: [{text: PATH}], recipe: quick@1"
NAME_A_SWEEP = "Name an existing YAML file such as sweep.yaml, or a module such as jobs.local"


def load_sweep(name: str) -> Sweep:
    """Load the sweep `name`: a YAML file, or a module that defines SWEEP.

    Relative paths in a YAML file are resolved against the folder of the file; those in a module, against the working
    directory.
    """
    if Path(name).suffix in (".yaml", ".yml"):
        return _resolve_paths(_validated(name, _read_yaml(Path(name))), Path(name).resolve().parent)
    return _resolve_paths(_from_module(name), Path.cwd())


def _resolve_paths(sweep: Sweep, folder: Path) -> Sweep:
    try:
        return sweep.resolve_paths(folder)
    except (OSError, ValueError, RuntimeError) as error:  # a zero byte, a symlink loop, an unknown ~user
        do = "Write paths of existing files and folders under checkpoints and corpora"
        raise UsageError(f"sweep {sweep.name}", f"invalid path: {error}", do) from error


def apply_overrides(sweep: Sweep, overrides: Iterable[str]) -> Sweep:
    """Return the sweep with every `dotted.key=value` applied and validated."""
    overrides = tuple(overrides)
    if not overrides:
        return sweep
    return _validated(sweep.name, merge_overrides(sweep.model_dump(mode="json"), overrides))


def merge_overrides(fields: dict[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """Apply every `dotted.key=value` to nested fields, in place; values are parsed as YAML."""
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise UsageError(f"--set {text}", "not of the form key=value", "Write --set resources.cpus=4")
        *parents, last = key.split(".")
        target = fields
        for parent in parents:
            inner = target.setdefault(parent, {})
            if not isinstance(inner, dict):
                do = f"Set the whole field: --set {parent}=VALUE"
                raise UsageError(f"--set {text}", f"{parent} is {inner!r}, not a group of fields", do)
            target = inner
        target[last] = parse_yaml(f"--set {text}", value)
    return fields


class _Loader(yaml.SafeLoader):
    """Safe YAML loader that refuses aliases, because nested aliases can expand to more values than memory holds."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            found = "a value that begins with * is an alias, which is not supported: put a glob in quotes"
            raise ComposerError(None, None, found, self.peek_event().start_mark)
        return super().compose_node(parent, index)


def parse_yaml(asked: str, text: str, do: str = "Write valid YAML") -> Any:
    """Parse `text` as YAML; `asked` is the first and `do` the last part of the error message."""
    try:
        return yaml.load(text, _Loader)
    except YAML_ERRORS as error:
        raise UsageError(asked, f"invalid YAML: {' '.join(str(error).split())[:300]}", do) from error


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text()
    except OSError as error:
        raise UsageError(f"sweep {path}", error.strerror or str(error), NAME_A_SWEEP) from error
    except UnicodeDecodeError as error:
        raise UsageError(f"sweep {path}", f"not a text file: {error}", NAME_A_SWEEP) from error
    fields = parse_yaml(f"sweep {path}", text, "Fix the YAML at that line")
    if not isinstance(fields, dict):
        raise UsageError(f"sweep {path}", "not a mapping of fields", f"Write the fields {REQUIRED_FIELDS}")
    return fields


def _from_module(name: str) -> Sweep:
    absent = UsageError(f"sweep {name or repr(name)}", "neither a YAML file nor an importable module", NAME_A_SWEEP)
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
        raise UsageError(f"sweep {name}", "the module defines no SWEEP", "Define SWEEP = Sweep(...) in the module")
    return sweep


def _validated(name: str, fields: dict[str, Any]) -> Sweep:
    try:
        return Sweep.model_validate(fields)
    except ValidationError as error:
        raise UsageError(f"sweep {name}", format_first_error(error), f"Write the fields {REQUIRED_FIELDS}") from error
