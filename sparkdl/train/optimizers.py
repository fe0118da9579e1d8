"""Find a model's optimizers, and make them accumulate gradients.

Runs in rank processes.
"""

from __future__ import annotations

from typing import Any

import keras

from sparkdl.errors import ModelError

__all__ = ["accumulate_gradients", "optimizers_of"]


def optimizers_of(model: Any) -> list[Any]:
    """The optimizers that are attributes of the model or of models within it, but for those that others wrap."""
    found: dict[int, Any] = {}
    for layer in model._flatten_layers():
        if isinstance(layer, keras.Model):
            for value in vars(layer).values():
                for one in _members(value):
                    if isinstance(one, keras.optimizers.Optimizer):
                        found.setdefault(id(one), one)
    wrapped = {id(getattr(optimizer, "inner_optimizer", None)) for optimizer in found.values()}
    return [optimizer for optimizer in found.values() if id(optimizer) not in wrapped]


def _members(value: Any) -> list[Any]:
    """The members of a list or a dict of any depth, or the value itself."""
    if isinstance(value, dict):
        value = list(value.values())
    return [one for item in value for one in _members(item)] if isinstance(value, (list, tuple)) else [value]


def accumulate_gradients(model: Any, steps: int) -> None:
    """Make the optimizers add up the gradients of so many steps before they update; Keras' own mechanism.

    Raises ModelError where an optimizer has its variables already, or another number.
    """
    if steps == 1:
        return
    for outer in optimizers_of(model):
        optimizer = getattr(outer, "inner_optimizer", outer)
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
