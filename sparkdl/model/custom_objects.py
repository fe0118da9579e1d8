"""Find the user's own classes and functions for a saved Keras model when it is loaded.

Runs wherever a model is loaded. Nothing is unpickled; a module that a file names is imported, which runs its
code, only for callers who asked for it with `safe_mode=False`.
"""

from __future__ import annotations

import contextlib
import importlib
import types
from collections.abc import Iterator, Mapping
from typing import Any, TypeGuard

from sparkdl.errors import ConfigError, ModelError, shown
from sparkdl.model.own_names import takes_a_keras_name

__all__ = ["check_custom_objects", "found_objects", "is_importable", "missing_objects", "registered", "taken_by_keras"]


def check_custom_objects(custom_objects: object) -> None:
    """Raise ConfigError unless `custom_objects` is None or a dict of classes and functions by name."""
    given = {} if custom_objects is None else custom_objects
    good = isinstance(given, Mapping) and all(isinstance(name, str) and callable(given[name]) for name in given)
    if not good:
        raise ConfigError(f"custom_objects={shown(custom_objects)} must be classes and functions by name")


def found_objects(
    saved: Mapping[str, str | None], given: Mapping[str, Any] | None, *, import_modules: bool
) -> dict[str, Any]:
    """Find the objects that Keras shall use for the names in a saved model; registered names are left to Keras.

    Functions of `keras.ops`, `tf.nn` and `tf.math`, as in `Dense(1, activation=keras.ops.gelu)`, need not be given.

    Args:
        saved: the module of each saved name, as `own_names` gave it when the model was saved.
        given: the caller's objects, by the saved name or by its part after the package ("layers>Own" or "Own").
        import_modules: import the modules that `saved` names, and take objects from them that were not given.

    Raises:
        ModelError: a module fails while it is imported; a module that is not found is skipped.
        ConfigError: a name in `given` may mean several things in the model.
    """
    given = dict(given or {})
    objects = dict(given)
    for name, module in saved.items():
        bare = _bare(name)
        if name in given:
            continue
        if bare in given:
            holders = [other for other in saved if other not in given and _bare(other) == bare]
            if len(holders) > 1:
                raise ConfigError(
                    f"custom_objects={{{bare!r}: …}} may mean {' or '.join(holders)}, which the model holds; give each "
                    "by its whole name"
                )
            objects[name] = given[bare]
            if takes_a_keras_name(bare):
                objects.pop(bare, None)  # the model may also hold Keras' object of this name
        elif (operation := _operation(bare, module)) is not None:
            objects[name] = operation
        elif import_modules and is_importable(module) and (found := _of_module(name, module)) is not None:
            objects[name] = found
    return objects


def is_importable(module: str | None) -> TypeGuard[str]:
    """Tell whether other processes find an object in this module: not in a function, and not in a notebook."""
    return module is not None and "<locals>" not in module and module.split(".")[0] != "__main__"


def _operation(name: str, module: str | None) -> Any:
    """Return the public operation of Keras or TensorFlow with this name and module; None if no operation has them.

    Keras itself finds only activations by name. No module that the model names is imported here, and no other objects
    of these libraries are returned.
    """
    import keras
    import tensorflow as tf

    if str(module).split(".")[0] not in ("keras", "tensorflow"):
        return None
    public = [found for namespace in (keras.ops, tf.nn, tf.math) for found in vars(namespace).values()]
    functions = (found for found in public if isinstance(found, types.FunctionType))
    return next((found for found in functions if (found.__name__, found.__module__) == (name, module)), None)


def _bare(name: str) -> str:
    return name.rsplit(">", 1)[-1]


def _of_module(name: str, module: str) -> Any:
    """Return the object that a module registers under this name, or has as an attribute; None if it has neither."""
    import keras

    try:
        imported = importlib.import_module(module)
    except ModuleNotFoundError:
        imported = None
    except Exception as error:
        raise ModelError(
            f"module {module}, which the model names, fails when it is imported: {' '.join(str(error).split())}"
        ) from error
    known = keras.saving.get_registered_object(name)
    return known if getattr(known, "__module__", None) == module else getattr(imported, _bare(name), None)


@contextlib.contextmanager
def registered(objects: Mapping[str, Any]) -> Iterator[None]:
    """Let Keras use these objects for their names within the block, rather than what is registered under the names.

    With Keras' `custom_object_scope` registered objects would come first in all layers.
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


def taken_by_keras(saved: Mapping[str, str | None], objects: Mapping[str, Any], config: Any) -> str:
    """Describe the saved names without a known object for which Keras would use its own objects; "" for no such name.

    `objects` are those that `found_objects` returned for `saved`, and `config` is the JSON configuration from which
    Keras is going to make the model.
    """
    named = set(_strings(config))
    hidden = {name: saved[name] for name in saved if name in named and takes_a_keras_name(_bare(name))}
    return missing_objects(hidden, objects)


def _strings(config: Any) -> Iterator[str]:
    if isinstance(config, str):
        yield config
    elif isinstance(config, (dict, list, tuple)):
        for entry in config.values() if isinstance(config, dict) else config:
            yield from _strings(entry)


def missing_objects(saved: Mapping[str, str | None], objects: Mapping[str, Any]) -> str:
    """Build the error message for saved names without a known object, with the way out; "" for no such name."""
    import keras

    missing = [name for name in saved if name not in objects and keras.saving.get_registered_object(name) is None]
    if not missing:
        return ""
    name, module = missing[0], saved[missing[0]]
    others = f" and {len(missing) - 1} more ({', '.join(missing[1:])[:200]})" if missing[1:] else ""
    of_module = f" of module {module}" if module else ""
    bare = _bare(name)
    ways_out = [f"give custom_objects={{{bare!r}: {bare}}}"]
    if is_importable(module):
        ways_out.append("or, if you trust it, safe_mode=False, which imports it")
        if name not in (bare, f"{module}>{bare}"):
            ways_out.insert(0, f"import {module} before")  # the import registers it
    return f"the model holds {name}{of_module}{others}, which this process does not know: {', '.join(ways_out)}"
