"""Give the user's classes and functions unambiguous names in a saved model.

Runs wherever a model is saved or loaded. Keras saves a function by its name alone, and takes its own `gelu` or `huber`
for any function of that name when it loads the model; so an object with a name of Keras' is saved as "module>name".
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import types
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from sparkdl.errors import ModelError

__all__ = ["own_names", "own_objects", "takes_a_keras_name"]

_NAMESPACES = (
    *("activations", "constraints", "initializers", "layers", "losses", "metrics", "optimizers", "regularizers"),
)
# Libraries whose functions may be replaced by Keras' function of the same name, if both give the same values.
_LIBRARIES = ("keras", "tensorflow")
_PROBE = np.linspace(-8, 8, 36, dtype=np.float32).reshape(6, 6)


@contextlib.contextmanager
def own_names(model: Any) -> Iterator[dict[str, str]]:
    """Let Keras serialize the user's classes and functions under unique names within the block.

    Yields each such name with the module of the object ("module.function.<locals>" if a function defined it).

    Raises:
        ModelError: two different objects would have one name.
        Exception: whatever Keras raises for a model that cannot be serialized.
    """
    found = _own_objects(model)
    names = _distinct_names(found)
    saved = {names[id(own)]: ".".join([own.__module__, *own.__qualname__.split(".")[:-1]]) for own in found}
    with _asked(lambda found: names.get(id(found))):
        yield dict(sorted(saved.items()))


def own_objects(model: Any) -> dict[str, Any]:
    """Return the user's classes and functions in the model, by the names that `own_names` gives them.

    Raises what `own_names` raises.
    """
    found = _own_objects(model)
    names = _distinct_names(found)
    return {names[id(own)]: own for own in found}


@contextlib.contextmanager
def _asked(answer: Callable[[Any], str | None]) -> Iterator[None]:
    """Let Keras ask `answer` for the name of each class and function within the block; None leaves the name to Keras.

    Every name that Keras writes for anything but its own public classes passes through the patched function.
    """
    from keras.src.saving import object_registration

    original = object_registration.get_registered_name
    object_registration.get_registered_name = lambda found: answer(found) or original(found)
    try:
        yield
    finally:
        object_registration.get_registered_name = original


def _own_objects(model: Any) -> list[Any]:
    """Return the classes and functions in the serialized model that are not Keras' own, each once, in order."""
    import keras

    objects: list[Any] = []
    with _asked(lambda found: objects.append(found)):
        keras.saving.serialize_keras_object(model)
    own: dict[int, Any] = {}
    for found in objects:
        if isinstance(found, type):
            is_keras = found.__module__.split(".")[0] in ("keras", "builtins")
        else:
            is_keras = not isinstance(found, types.FunctionType) or _is_keras_function(found)
        if not is_keras:
            own.setdefault(id(found), found)
    return list(own.values())


def _is_keras_function(function: Any) -> bool:
    """Tell whether Keras, given the function's name, finds this very function, or a function that does the same."""
    import keras

    name = keras.saving.get_registered_name(function)
    keras_own = [getattr(getattr(keras, namespace), name, None) for namespace in _NAMESPACES]
    if any(function is found for found in keras_own):
        return True
    activation = getattr(keras.activations, name, None)
    return (
        # Keras finds a function by its __name__ only: silu, not swish.
        getattr(activation, "__name__", None) == name
        and function.__module__.split(".")[0] in _LIBRARIES
        and _gives_the_same(function, activation)
    )


def _gives_the_same(function: Any, other: Any) -> bool:
    """Tell whether two activations agree: `tf.nn.relu` is Keras' relu, `keras.ops.gelu` is not Keras' gelu."""
    try:
        return bool(np.allclose(np.asarray(function(_PROBE)), np.asarray(other(_PROBE)), rtol=1e-5, atol=1e-6))
    except Exception:
        return False


def _distinct_names(objects: list[Any]) -> dict[int, str]:
    """Return the name of each object by its id. Raises ModelError if one name would mean two different objects."""
    import keras

    plain = {id(own): keras.saving.get_registered_name(own) for own in objects}
    names: dict[int, str] = {}
    holders: dict[str, Any] = {}
    for own in objects:
        name = plain[id(own)]
        registered = name != own.__name__
        modules = {other.__module__ for other in objects if plain[id(other)] == name}
        if not registered and (len(modules) > 1 or takes_a_keras_name(name)):
            name = f"{own.__module__}>{name}"
        names[id(own)] = name
        if not _alike(holders.setdefault(name, own), own):
            raise ModelError(
                f"the model holds two different objects that are both named {name!r}, and a saved model could not tell "
                f"them apart; make them one class with an argument in its get_config(), or register each under a "
                f"different name by keras.saving.register_keras_serializable(name=…)"
            )
    return names


def takes_a_keras_name(name: str) -> bool:
    """Tell whether Keras has an object of this name; case is ignored, as Keras ignores it in some of its look-ups."""
    return name.lower() in _keras_names()


@functools.cache
def _keras_names() -> frozenset[str]:
    import keras

    names: set[str] = set()
    for namespace in _NAMESPACES:
        names.update(dir(getattr(keras, namespace)))
        # Abbreviations such as "mse", and the names in lower case.
        names.update(getattr(importlib.import_module(f"keras.src.{namespace}"), "ALL_OBJECTS_DICT", ()))
    return frozenset(name.lower() for name in names)


def _alike(first: Any, second: Any, above: tuple[tuple[int, int], ...] = ()) -> bool:
    """Tell whether two classes or functions were made by the same code with the same enclosed values.

    `above`: the pairs of ids that are being compared; a reference back to such a pair makes no difference.
    """
    if first is second or (id(first), id(second)) in above:
        return True
    above = (*above, (id(first), id(second)))
    if isinstance(first, type) and isinstance(second, type):
        own = [{k: v for k, v in vars(c).items() if not k.startswith("__") or callable(v)} for c in (first, second)]
        return (
            len(first.__bases__) == len(second.__bases__)
            and all(_alike(a, b, above) for a, b in zip(first.__bases__, second.__bases__, strict=True))
            and own[0].keys() == own[1].keys()
            and all(_alike(own[0][name], own[1][name], above) for name in own[0])
        )
    if isinstance(first, types.FunctionType) and isinstance(second, types.FunctionType):
        around = [[cell.cell_contents for cell in f.__closure__ or ()] for f in (first, second)]
        # A method that calls super() holds its class in a cell.
        pairs = [
            (a, b)
            for a, b in zip(*around, strict=False)
            if not (isinstance(a, type) and isinstance(b, type) and a.__qualname__ == b.__qualname__)
        ]
        return (
            first.__code__ == second.__code__
            and _equal(first.__defaults__, second.__defaults__)
            and _equal(first.__kwdefaults__, second.__kwdefaults__)
            and all(_alike(a, b, above) for a, b in pairs)
        )
    parts = [_functions_in(found) for found in (first, second)]
    if type(first) is type(second) and parts[0]:
        return len(parts[0]) == len(parts[1]) and all(_alike(a, b, above) for a, b in zip(*parts, strict=True))
    return _equal(first, second)


def _functions_in(found: Any) -> list[Any]:
    """Return the functions in a property, class method or other decorated method, which cannot be compared itself."""
    if isinstance(found, property):
        return [found.fget, found.fset, found.fdel]
    inner = getattr(found, "func", None) if isinstance(found, functools.cached_property) else None
    inner = inner or getattr(found, "__wrapped__", None)
    return [] if inner is None else [inner]


def _equal(first: Any, second: Any) -> bool:
    try:
        return bool(np.array_equal(first, second) if isinstance(first, np.ndarray) else first == second)
    except Exception:  # the comparison of tensors has no single truth value
        return False
