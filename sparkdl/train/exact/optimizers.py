"""Find a model's optimizers, and make them accumulate gradients. Runs in rank processes."""

from __future__ import annotations

from typing import Any

import keras

from sparkdl.errors import ModelError

__all__ = ["accumulate_gradients", "has_stepped", "inner_optimizers", "optimizers_of", "updating_optimizers"]


def optimizers_of(model: Any) -> list[Any]:
    """List the optimizers that are attributes of the model or of models within it, without those that others wrap."""
    models = (layer for layer in model._flatten_layers() if isinstance(layer, keras.Model))
    members = (one for inner in models for value in vars(inner).values() for one in _members(value))
    found = {id(one): one for one in members if isinstance(one, keras.optimizers.Optimizer)}
    wrapped = {id(inner) for optimizer in found.values() for inner in inner_optimizers(optimizer)}
    return [optimizer for optimizer in found.values() if id(optimizer) not in wrapped]


def updating_optimizers(optimizer: Any) -> list[Any]:
    """List the optimizers that change weights: `optimizer`, or the ones that it calls to scale losses or to combine.

    Raises ModelError where the called optimizers are not known yet.
    """
    inner = _wrapped(optimizer)
    if inner is None:
        return [optimizer]
    if not inner:
        raise ModelError(
            f"optimizer {optimizer.name!r} does not say yet which optimizers it combines; give it a "
            "keras.optimizers.OptimizerMap, or build it in build_model"
        )
    return [one for wrapped in inner for one in updating_optimizers(wrapped)]


def has_stepped(optimizer: Any) -> bool:
    """Tell whether an optimizer, or one that it calls, has changed weights."""
    return any(int(one.iterations) > 0 for one in (optimizer, *inner_optimizers(optimizer)))


def _wrapped(optimizer: Any) -> list[Any] | None:
    """List the optimizers that an optimizer for scaling losses, or for combining several, calls; None for any other."""
    if hasattr(optimizer, "inner_optimizer"):
        return [optimizer.inner_optimizer]
    return list(optimizer.optimizers) if hasattr(optimizer, "optimizers") else None


def inner_optimizers(optimizer: Any) -> list[Any]:
    """List the optimizers that an optimizer calls, and those that these call, as far as they are known."""
    inner = _wrapped(optimizer) or []
    return [*inner, *(one for wrapped in inner for one in inner_optimizers(wrapped))]


def _members(value: Any) -> list[Any]:
    """List the members of a list or a dict of any depth, or the value itself."""
    if isinstance(value, dict):
        value = list(value.values())
    return [one for item in value for one in _members(item)] if isinstance(value, (list, tuple)) else [value]


def accumulate_gradients(model: Any, steps: int) -> None:
    """Make the optimizers add up the gradients of `steps` steps before they update; Keras' own mechanism.

    Raises ModelError where an optimizer has its variables already, or another number of steps.
    """
    if steps == 1:
        return
    for optimizer in (one for outer in optimizers_of(model) for one in updating_optimizers(outer)):
        given = optimizer.gradient_accumulation_steps
        if given == steps:
            continue
        if given:
            raise ModelError(
                f"optimizer {optimizer.name!r} has gradient_accumulation_steps={given}, TrainConfig says {steps}; "
                "give it once"
            )
        if optimizer.built:
            raise ModelError(
                f"optimizer {optimizer.name!r} is built already, too late for gradient_accumulation_steps={steps}; "
                "give it to the optimizer in build_model"
            )
        optimizer.gradient_accumulation_steps = steps
