"""Give a new model the weights of a trained one, where they are the same variables.

Runs in rank 0. Whether the features and classes mean the same is checked on the driver (`checks.initial_model`).
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from typing import Any

import keras

from sparkdl.errors import ModelError
from sparkdl.model.load import load_keras
from sparkdl.model.own_names import own_objects
from sparkdl.model.signature import Signature

__all__ = ["layer_name", "variables_difference", "warm_start"]


def variables_difference(old: Sequence[Sequence[Any]], new: Sequence[Sequence[Any]]) -> str | None:
    """Describe the first difference of two lists of variables, each a (name, shape, dtype); None if all values fit.

    Floats may differ in precision; Keras casts them.
    """
    for index, ((name, shape, dtype), (own_name, own_shape, own_dtype)) in enumerate(zip(old, new, strict=False)):
        if name != own_name:
            return f"variable {index} is {name!r} there and {own_name!r} here"
        if tuple(shape) != tuple(own_shape):
            return f"variable {name!r} has shape {tuple(shape)} there and {tuple(own_shape)} here"
        if dtype != own_dtype and not ("float" in dtype and "float" in own_dtype):
            return f"variable {name!r} is {dtype} there and {own_dtype} here"
    return None if len(old) == len(new) else f"there are {len(old)} variables there and {len(new)} here"


def warm_start(model: Any, model_dir: str) -> None:
    """Give the model the weights of a trained one, which may hold the same layers and functions of the user's.

    Raises ModelError if the trained model cannot be loaded, or if names, order, shapes or types of variables differ.
    """
    trained = _trained(model_dir, model)
    difference = variables_difference(_variables(trained), _variables(model))
    if difference is not None:
        raise ModelError(
            f"initial_model={model_dir} has other weights than build_model's model: {difference}; give its layers the "
            "same names in the same order, or leave initial_model out and set the weights in build_model"
        )
    model.set_weights(trained.get_weights())


def _trained(model_dir: str, model: Any) -> Any:
    """Load the trained Keras model; its custom objects are those of the same names in the new model."""
    known: dict[str, Any] = {}
    with contextlib.suppress(Exception):  # a model that Keras cannot serialize; it may hold nothing of the trained one
        known = own_objects(model)
    signature = Signature.read(model_dir)
    objects = {name: known[name] for name in signature.custom_objects if name in known}
    try:
        return load_keras(model_dir, signature, custom_objects=objects, compiled=False)
    except ModelError as error:
        raise ModelError(
            f"initial_model={model_dir} cannot be loaded with what build_model's model holds: {error}; or leave "
            "initial_model out and set the weights in build_model: model.set_weights(sparkdl.load_model(…)"
            ".keras_model.get_weights())"
        ) from error


def _variables(model: Any) -> list[tuple[str, tuple[int, ...], str]]:
    """Return name, shape and dtype of each weight of a model, the name with its layer's: `dense/kernel`.

    Keras' `path` is not used: the names of enclosing models are in it or not, depending on when they were built. The
    numbers that Keras adds to default layer names are left out: they count all layers that the process has made.
    """
    owners = {
        id(weight): layer_name(layer.name, type(layer).__name__)
        for layer in model._flatten_layers()
        for weight in (*layer._trainable_variables, *layer._non_trainable_variables)
    }
    dtype_of = keras.backend.standardize_dtype
    return [(f"{owners.get(id(w), '')}/{w.name}", tuple(w.shape), dtype_of(w.dtype)) for w in model.weights]


def layer_name(name: str, kind: str) -> str:
    """Return a layer's name, without the number if it is Keras' default name for the class: "dense" for "dense_3"."""
    bare = re.sub(r"_\d+$", "", name)
    return bare if bare.replace("_", "") == kind.lower().replace("_", "") else name
