"""Read the options of a job, a YAML file with `key=value` overrides, and build configurations from them.

Runs on the driver, before Spark starts.
"""

from __future__ import annotations

import dataclasses
import importlib
import sysconfig
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any, TypeVar

import cloudpickle
import yaml

from sparkdl.checks import check_options
from sparkdl.data.reader_config import ReaderConfig
from sparkdl.data.split import Split
from sparkdl.errors import ConfigError, near_miss, shown
from sparkdl.train.config import CheckpointConfig

__all__ = ["build", "load_function", "mapping", "read_options", "take"]

T = TypeVar("T")

# Fields of configurations that have another form in YAML than in Python.
_FROM_YAML: dict[str, Callable[[Any], Any]] = {
    "splits": lambda value: None if value is None else Split.from_mapping(mapping("splits", value)),
    "augment": lambda value: None if value is None else load_function(value),
    "callbacks": lambda value: None if value is None else load_function(value),
    "checkpoint": lambda value: build(CheckpointConfig, value),
    "reader": lambda value: build(ReaderConfig, value),
}


def read_options(argv: Sequence[str]) -> dict[str, Any]:
    """Read the options of a YAML file, overridden by `key=value` arguments; `launch.num_workers=4` is a nested key.

    Raises ConfigError for a file that cannot be read and for an argument that is not an override.
    """
    if not argv:
        raise ConfigError("give the job a YAML file, as in: spark-submit jobs/train.py conf/train.yaml epochs=20")
    try:
        with open(argv[0], encoding="utf-8") as file:
            options = yaml.safe_load(file) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{argv[0]} cannot be read: {' '.join(str(error).split())}") from error
    options = mapping(argv[0], options)
    for argument in argv[1:]:
        key, equals, text = argument.partition("=")
        if not equals or not key:
            raise ConfigError(f"{shown(argument)} is not an override; write key=value, as in epochs=20")
        _override(options, key.split("."), _yaml_value(key, text))
    return options


def take(options: dict[str, Any], key: str) -> Any:
    """Take one option out of a job's options. Raises ConfigError if it is not there."""
    if key not in options:
        raise ConfigError(f"option {key!r} is missing; set it in the YAML file or as {key}=…")
    return options.pop(key)


def build(kind: type[T], options: Mapping[str, Any]) -> T:
    """Build a configuration dataclass from options.

    Raises ConfigError for an unknown key, with its near miss, for a missing key, and for a wrong value.
    """
    options = mapping(kind.__name__, options)
    fields = {f.name: f for f in dataclasses.fields(kind) if f.init}  # type: ignore[arg-type]
    check_options(options, fields)
    missing = dataclasses.MISSING
    for name, field in fields.items():
        if name not in options and field.default is missing and field.default_factory is missing:
            raise ConfigError(f"option {name!r} is missing; set it in the YAML file or as {name}=…")
    values = {key: _FROM_YAML[key](value) if key in _FROM_YAML else value for key, value in options.items()}
    try:
        return kind(**values)
    except ConfigError:
        raise
    except (AttributeError, TypeError, ValueError) as error:
        raise ConfigError(f"{kind.__name__}({shown(dict(options))}): {error}") from error


def load_function(name: Any) -> Callable[..., Any]:
    """Load the function named by `module:function`, so that it can be sent to executors without the module."""
    module_name, colon, function_name = name.partition(":") if isinstance(name, str) else ("", "", "")
    if not colon or not module_name or not function_name:
        raise ConfigError(f"{shown(name)} must have the form module:function")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ConfigError(f"{name}: {error}; put the module beside the job or send it by --py-files") from error
    function = getattr(module, function_name, None)
    if not callable(function):
        hint = near_miss(function_name, (known for known, value in vars(module).items() if callable(value)))
        raise ConfigError(f"{name}: module {module_name} has no such function{hint}")
    if not _installed(module):
        cloudpickle.register_pickle_by_value(module)
    return function


def mapping(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{name} must hold keys and values, not {shown(value)}")
    return dict(value)


def _override(options: dict[str, Any], keys: Sequence[str], value: Any) -> None:
    for key in keys[:-1]:
        inner = options.get(key, {})
        if not isinstance(inner, Mapping):
            raise ConfigError(
                f"{'.'.join(keys)}: {key} holds {shown(inner)}, which has no keys; override {key} as a whole"
            )
        options[key] = dict(inner)
        options = options[key]
    options[keys[-1]] = value


def _yaml_value(key: str, text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{key}={shown(text)} is not a YAML value") from error


def _installed(module: ModuleType) -> bool:
    """Tell whether executors can be expected to have the module: it is installed, or a part of sparkdl."""
    if module.__name__.split(".")[0] == "sparkdl":
        return True
    file = getattr(module, "__file__", None) or ""
    return any(file.startswith(sysconfig.get_path(kind)) for kind in ("purelib", "platlib", "stdlib"))
