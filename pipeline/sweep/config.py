"""A sweep from a YAML file or a Python module: the same model either way."""

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
"""What the parser raises for wrong text: beside its own error those of int(), of a wrong tag, of too deep a nest."""


def load_sweep(name: str) -> Sweep:
    """The sweep `name`: a YAML file, or a module that defines SWEEP.

    Relative paths count from the YAML file's folder, in a module from the working folder.
    """
    if Path(name).suffix in (".yaml", ".yml"):
        return _resolve_paths(_validated(name, _read_yaml(Path(name))), Path(name).resolve().parent)
    return _resolve_paths(_from_module(name), Path.cwd())


def _resolve_paths(sweep: Sweep, folder: Path) -> Sweep:
    try:
        return sweep.resolve_paths(folder)
    except (OSError, ValueError, RuntimeError) as error:  # a zero byte, a loop of links, ~ of nobody
        raise UsageError(f"sweep {sweep.name}", f"a path that is none: {error}", "Correct it") from error


def apply_overrides(sweep: Sweep, overrides: Iterable[str]) -> Sweep:
    """The sweep with `dotted.key=value` applied and checked again."""
    overrides = tuple(overrides)
    if not overrides:
        return sweep
    return _validated(sweep.name, merge_overrides(sweep.model_dump(mode="json"), overrides))


def merge_overrides(fields: dict[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
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
        place[last] = parse_yaml(f"--set {text}", value)
    return fields


class _Loader(yaml.SafeLoader):
    """Without aliases: ten lines of them can stand for more values than there is memory."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise ComposerError(None, None, "an alias, which a sweep has no use for", self.peek_event().start_mark)
        return super().compose_node(parent, index)


def parse_yaml(asked: str, text: str) -> Any:
    """The value of `text` as YAML."""
    try:
        return yaml.load(text, _Loader)
    except YAML_ERRORS as error:
        raise UsageError(asked, f"no YAML: {' '.join(str(error).split())[:300]}", "Correct it") from error


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text()
    except OSError as error:
        raise UsageError(f"sweep {path}", error.strerror or str(error), "Name a YAML file or a module") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"sweep {path}", f"no text: {error}", "Name a YAML file or a module") from error
    fields = parse_yaml(f"sweep {path}", text)
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
        raise UsageError(f"sweep {name}", format_first_error(error), "Correct it") from error
