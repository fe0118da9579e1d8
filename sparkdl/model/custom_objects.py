"""The user's own classes and functions in a Keras model: which it has, and where they come from when it is loaded.

Runs wherever a model is saved or loaded. Nothing is unpickled; a module that a file names is imported, which runs its
code, only for callers who asked for it with `safe_mode=False`.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator, Mapping
from typing import Any

from sparkdl.errors import ConfigError, ModelError, shown

__all__ = ["check_custom_objects", "custom_objects_of", "found_objects", "missing_objects", "registered"]

# Modules of Keras where it looks for functions that are named without one.
_KERAS_FUNCTIONS = ("activations", "losses", "metrics", "initializers", "regularizers", "constraints")


def check_custom_objects(custom_objects: object) -> None:
    """Raise ConfigError unless these are classes and functions by name, or None."""
    if custom_objects is None:
        return
    named = isinstance(custom_objects, Mapping) and all(isinstance(name, str) for name in custom_objects)
    if not named or not all(callable(found) for found in custom_objects.values()):  # type: ignore[attr-defined]
        raise ConfigError(f"custom_objects={shown(custom_objects)} must be classes and functions by name")


def custom_objects_of(model: Any) -> dict[str, str | None]:
    """The names under which Keras looks for a model's own classes and functions, each with its module, if known."""
    import keras

    found = dict(_custom(keras.saving.serialize_keras_object(model)))
    return {name: found[name] for name in sorted(found)}


def _custom(config: Any) -> Iterator[tuple[str, str | None]]:
    """The (name, module) of every entry of a model's configuration that Keras does not bring along."""
    if isinstance(config, (list, tuple)):
        for entry in config:
            yield from _custom(entry)
    if not isinstance(config, dict):
        return
    kind, module = config.get("class_name"), config.get("module")
    if kind == "function" and isinstance(config.get("config"), str):
        name = config["config"]
        if not _is_keras_function(name):
            yield name, _module_of(name)
    elif isinstance(kind, str) and isinstance(module, str) and module.split(".")[0] not in ("keras", "builtins"):
        yield config.get("registered_name") or kind, module
    for entry in config.values():
        yield from _custom(entry)


def _is_keras_function(name: str) -> bool:
    import keras

    return any(hasattr(getattr(keras, module), name) for module in _KERAS_FUNCTIONS)


def _module_of(name: str) -> str | None:
    import keras

    return getattr(keras.saving.get_registered_object(name), "__module__", None)


def found_objects(
    saved: Mapping[str, str | None], given: Mapping[str, Any] | None, *, import_modules: bool
) -> dict[str, Any]:
    """What Keras shall take for the names in a saved model; what it has registered already is left to it.

    Args:
        saved: as `custom_objects_of` gave it when the model was saved.
        given: the caller's own, by the saved name or by the part of it after the package ("layers>Own" or "Own").
        import_modules: import the modules that `saved` names, and take from them what was not given.

    Raises ModelError for a module that fails while it is imported; one that is not there is passed over.
    """
    objects = dict(given or {})
    for name, module in saved.items():
        bare = name.rsplit(">", 1)[-1]
        if bare in objects:
            objects.setdefault(name, objects[bare])
        elif name not in objects and import_modules and module is not None:
            found = getattr(_imported(module), bare, None)
            if found is not None:
                objects[name] = found
    return objects


def _imported(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError:
        return None
    except Exception as error:
        raise ModelError(
            f"module {module}, which the model names, fails when it is imported: {' '.join(str(error).split())}"
        ) from error


@contextlib.contextmanager
def registered(objects: Mapping[str, Any]) -> Iterator[None]:
    """Keras takes these for their names in the block, before what it has registered under them.

    Its own `custom_object_scope` would let what is registered come first in all layers.
    """
    import keras

    registry = keras.saving.get_custom_objects()
    before = {name: registry[name] for name in objects if name in registry}
    registry.update(objects)
    try:
        yield
    finally:
        for name in objects:
            registry.pop(name, None)
        registry.update(before)


def missing_objects(saved: Mapping[str, str | None], objects: Mapping[str, Any]) -> str:
    """What to tell of the saved names that nothing is known for, and the way out; "" if there are none."""
    import keras

    missing = [name for name in saved if name not in objects and keras.saving.get_registered_object(name) is None]
    if not missing:
        return ""
    name, module = missing[0], saved[missing[0]]
    others = f" and {len(missing) - 1} more ({', '.join(missing[1:])[:200]})" if missing[1:] else ""
    of_module = f" of module {module}" if module else ""
    bare = name.rsplit(">", 1)[-1]
    ways_out = [f"give custom_objects={{{bare!r}: {bare}}}"]
    if module and module != "__main__":
        ways_out = [f"import {module} before", *ways_out, "or, if you trust it, safe_mode=False, which imports it"]
    return f"the model holds {name}{of_module}{others}, which this process does not know: {', '.join(ways_out)}"
