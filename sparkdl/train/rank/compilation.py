"""Describe how a callback compiled a model, and compile a model that `build_model` made in the same way.

Runs in rank processes. A run that goes on after such a compilation builds its model anew, and compiles it as the
checkpoint says: the optimizer, loss and metrics of a callback that does not act again.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import Any

import keras

from sparkdl.differences import first_difference
from sparkdl.errors import CheckpointError, ModelError
from sparkdl.model.custom_objects import registered
from sparkdl.model.own_names import own_names
from sparkdl.train.rank.facts import layer_facts, made_of, own_values, without_compilation

__all__ = ["check_repeatable", "compilation_of", "compile_as", "figures_of"]

_WHY = "a run that goes on from a checkpoint could not compile its model in this way"


def compilation_of(model: Any) -> dict[str, Any]:
    """Describe as JSON how a model is compiled, and which of its layers and variables are trainable."""
    with own_names(model):
        config = model.get_compile_config()
    return {
        "config": json.loads(json.dumps(config)),
        "layers": [bool(layer.trainable) for layer in model._flatten_layers()],
        "variables": [bool(variable.trainable) for variable in model.variables],
    }


def figures_of(compilation: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a compilation that determines loss and metrics, and not the steps."""
    kept = ("optimizer", "run_eagerly", "steps_per_execution", "jit_compile")
    return {name: value for name, value in compilation["config"].items() if name not in kept}


def compile_as(model: Any, compilation: Mapping[str, Any], objects: Mapping[str, Any]) -> None:
    """Compile a model of `build_model` as `compilation_of` described it.

    `objects`: the user's objects in the model, by their names. Raises CheckpointError where the model cannot be
    compiled so.
    """
    layers, variables = model._flatten_layers(), model.variables
    if (len(layers), len(variables)) != (len(compilation["layers"]), len(compilation["variables"])):
        raise CheckpointError(f"model {model.name!r} has other layers than the one that a callback compiled")
    # A layer sets all that is within it: from the outermost one to the innermost ones.
    for owners, flags in ((layers, compilation["layers"]), (variables, compilation["variables"])):
        for owner, flag in zip(owners, flags, strict=True):
            owner.trainable = flag
    model._compile_loss = model._compile_metrics = None  # Keras keeps those that the next compilation does not name
    try:
        with registered(objects):
            model.compile_from_config(copy.deepcopy(compilation["config"]))  # Keras changes what it reads
    except Exception as error:
        text = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise CheckpointError(f"model {model.name!r} cannot be compiled as a callback compiled it: {text}") from error
    if difference := first_difference(dict(compilation), compilation_of(model), "compilation"):
        raise CheckpointError(f"model {model.name!r} is compiled otherwise than a callback compiled it: {difference}")


def check_repeatable(
    model: Any, compilation: Mapping[str, Any], built: Mapping[str, Any], objects: Mapping[str, Any]
) -> None:
    """Raise ModelError unless a run that goes on would have this very model, compiled in this very way.

    Args:
        built: `model_facts` of the model as `build_model` returned it.
        objects: the user's objects in that model, by their names.
    """
    kind = type(model)
    if kind.compile is not keras.Model.compile and kind.compile_from_config is keras.Model.compile_from_config:
        raise ModelError(
            f"model {model.name!r} was compiled by a callback, and {kind.__name__} has its own compile: {_WHY}; "
            "override get_compile_config and compile_from_config as well"
        )
    now = json.loads(json.dumps(layer_facts(model)))
    before = {
        "config": json.loads(json.dumps(without_compilation(built["config"]))),
        "values": {name: built["values"].get(name) for name in now["values"]},
    }
    if difference := first_difference(before, now, "model"):
        raise ModelError(
            f"a callback has compiled model {model.name!r} and changed more than weights, trainable and compilation: "
            f"{difference}, which a run that goes on from a checkpoint would not know; let build_model make it so, or "
            "train in two runs, with TrainConfig(initial_model=first.model_dir)"
        )
    wrapped = isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    if model.dtype_policy.name == "mixed_float16" and not wrapped:
        raise ModelError(
            f"model {model.name!r} is of mixed_float16 and was compiled by a callback with auto_scale_loss=False, "
            f"which Keras' configuration does not hold: {_WHY}; let build_model compile it so"
        )
    if kind.compile is keras.Model.compile:
        _check_objects(model, compilation["config"], objects)


def _check_objects(model: Any, config: Mapping[str, Any], objects: Mapping[str, Any]) -> None:
    """Raise ModelError unless the compiled objects are those that Keras makes of their configuration."""
    try:
        with registered(objects):
            again = keras.saving.deserialize_keras_object(copy.deepcopy(dict(config)), safe_mode=True)
    except Exception as error:
        text = " ".join(str(error).split())[:300]
        raise ModelError(
            f"model {model.name!r} was compiled by a callback with what Keras cannot make of its configuration: "
            f"{_WHY}; register your classes and functions with keras.saving.register_keras_serializable, in a module "
            f"that build_model imports ({text})"
        ) from error
    given = model._compile_config.config
    held, made = (json.loads(json.dumps(own_values(made_of(list(one.values()))))) for one in (given, again))
    if difference := first_difference(held, made, "compilation"):
        raise ModelError(
            f"model {model.name!r} was compiled by a callback with an object whose get_config does not hold its "
            f"values ({difference}): {_WHY}; let its get_config return them"
        )
