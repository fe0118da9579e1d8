"""Describe a model and callbacks as JSON, so that two runs can be compared.

Runs in rank processes, after `build_model` and `callbacks` returned and before anything changes what they returned.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import FunctionType, MethodType
from typing import Any

import keras
import numpy as np

from sparkdl.user_code.fingerprint import code_digest, is_own

__all__ = [
    "callback_facts",
    "layer_facts",
    "made_of",
    "metric_directions",
    "model_facts",
    "own_values",
    "weight_facts",
    "without_compilation",
]

_MAX_DEPTH = 6
_DIRECTIONS = {"up": "max", "down": "min"}
# At most this many values of a variable, spread evenly over it, are enough to tell two orders of values apart.
_MOST_VALUES = 1 << 16


def model_facts(model: Any) -> dict[str, Any]:
    """Describe a model: its configuration and variables, and the code and values of the user's classes in it."""
    return {
        "keras": keras.__version__,
        "config": keras.saving.serialize_keras_object(model),
        "variables": [
            [variable.path, list(variable.shape), keras.backend.standardize_dtype(variable.dtype)]
            for variable in model.variables
        ],
        "code": _own_code(_parts_of(model)),
        "values": own_values(_parts_of(model)),
    }


def layer_facts(model: Any) -> dict[str, Any]:
    """Describe a model's layers, apart from what compiling changes: the compilation, and what is trainable."""
    layers = [layer for layer in model._flatten_layers() if is_own(type(layer))]
    return {
        "config": without_compilation(keras.saving.serialize_keras_object(model)),
        "values": own_values(layers),
    }


def without_compilation(config: Any) -> Any:
    """Return a model's serialized configuration without its compilation, and without what is trainable."""
    if isinstance(config, Mapping):
        kept = {name: value for name, value in config.items() if name not in ("compile_config", "trainable")}
        return {name: without_compilation(value) for name, value in kept.items()}
    return [without_compilation(value) for value in config] if isinstance(config, (list, tuple)) else config


def weight_facts(model: Any) -> list[list[float]]:
    """Return two numbers for each variable of a model: its norm, and one that depends on the order of its values."""
    found = []
    for variable in model.variables:
        values = np.asarray(keras.ops.convert_to_numpy(variable), np.float64).ravel()
        some = values[:: max(1, len(values) // _MOST_VALUES)]
        found.append([float(np.linalg.norm(values)), float(some @ np.cos(np.arange(len(some))))])
    return found


def callback_facts(callbacks: Sequence[Any]) -> list[dict[str, Any]]:
    """Describe each callback: its class, the code of that class if it is the user's, and its attributes."""
    return [
        {
            "class": type(callback).__qualname__.rpartition("<locals>.")[2],
            "code": code_digest(type(callback)) if is_own(type(callback)) else "",
            "config": {name: _plain(value) for name, value in sorted(vars(callback).items())},
        }
        for callback in callbacks
    ]


def metric_directions(model: Any) -> dict[str, str | None]:
    """Return "min", "max" or None (neither is stated) for each metric of a built model, by its name in the history."""
    named: dict[str, Any] = {}
    for metric in model.metrics:
        parts = getattr(metric, "metrics", None)
        if not parts:
            named[metric.name] = metric
            continue
        # The names of the results begin with those of outputs; the results are in the order of the parts.
        names = list(metric.result())
        named |= dict(zip(names, parts, strict=True)) if len(names) == len(parts) else {}
    return {name: _DIRECTIONS.get(getattr(metric, "_direction", "")) for name, metric in sorted(named.items())}


def _own_code(parts: Iterable[Any]) -> dict[str, str]:
    """Return by name a digest of the code of each class and function of the user's among the parts."""
    found: dict[str, set[str]] = {}
    for part in parts:
        code = part if isinstance(part, FunctionType) else type(part)
        if is_own(code):
            found.setdefault(code.__qualname__.rpartition("<locals>.")[2], set()).add(code_digest(code))
    return {name: " ".join(sorted(found[name])) for name in sorted(found)}


def own_values(parts: Iterable[Any]) -> dict[str, list[Any]]:
    """Return by class the attributes of each object of a user's class, which `get_config` may not contain.

    Attributes that Keras' own classes have are left out, and names with an underscore first: Keras keeps state there.
    """
    kinds = (keras.Model(name="m"), keras.Layer(name="l"), keras.losses.Loss(name="l"), keras.metrics.Metric(name="m"))
    kinds[0].compile()
    # The last ones are set by `fit`, `evaluate` and `predict`.
    of_keras = {name for one in kinds for name in vars(one)} | {"history", "stop_evaluating", "stop_predicting"}
    found: dict[str, list[Any]] = {}
    for part in parts:
        if isinstance(part, FunctionType) or not is_own(type(part)):
            continue
        held = {n: v for n, v in sorted(vars(part).items()) if not n.startswith("_") and n not in of_keras}
        if held:
            found.setdefault(type(part).__qualname__.rpartition("<locals>.")[2], []).append(_plain(held))
    return {name: _sorted(found[name]) for name in sorted(found)}


def _parts_of(model: Any) -> Iterator[Any]:
    """Yield the model, its layers, loss, metrics, optimizer, and in turn the functions and Keras objects in them."""
    compiled = getattr(getattr(model, "_compile_config", None), "config", {})
    return made_of([model, *model._flatten_layers(), *_flat(compiled)])


def made_of(parts: Sequence[Any]) -> Iterator[Any]:
    """Yield the functions and Keras objects among the parts, and in turn those within them; each once."""
    waiting, seen = list(_flat(parts)), {}
    while waiting:
        part = waiting.pop()
        if id(part) in seen:
            continue
        seen[id(part)] = part  # kept alive, so that no other object gets the same id
        if isinstance(part, MethodType):
            waiting += [part.__func__, part.__self__]
        elif isinstance(part, FunctionType):
            yield part
        elif hasattr(part, "get_config") and not isinstance(part, type):
            yield part
            waiting += _flat(getattr(part, "__dict__", {}))


def _flat(value: Any, depth: int = 0) -> Iterator[Any]:
    """Yield the values in lists and dicts, and in the lists and dicts within them."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)) and depth < _MAX_DEPTH:
        for part in value:
            yield from _flat(part, depth + 1)
    else:
        yield value


def _plain(value: Any, depth: int = 0) -> Any:
    """Turn a value into JSON: functions by their code, Keras objects by their configuration, others by their class."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and value != value:
        return "nan"  # as text, two NaN are equal
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.ndarray):
        return f"array {code_digest(value)[:16]}"
    if depth < _MAX_DEPTH and isinstance(value, Mapping):
        return {str(name): _plain(part, depth + 1) for name, part in value.items()}
    if depth < _MAX_DEPTH and isinstance(value, (list, tuple)):
        return [_plain(part, depth + 1) for part in value]
    if isinstance(value, (set, frozenset)):
        return _sorted(_plain(part, depth + 1) for part in value)
    if isinstance(value, (FunctionType, MethodType)):
        return f"{value.__qualname__.rpartition('<locals>.')[2]} {code_digest(value)[:16]}"
    if depth < _MAX_DEPTH and callable(config := getattr(value, "get_config", None)) and not isinstance(value, type):
        return {"class": type(value).__qualname__, "config": _plain(config(), depth + 1)}
    return type(value).__qualname__


def _sorted(values: Iterable[Any]) -> list[Any]:
    return sorted(values, key=repr)
