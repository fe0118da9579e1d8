"""Tell which methods of Keras' Model a user's class overrides. Runs in rank processes."""

from __future__ import annotations

from typing import Any

import keras

__all__ = ["has_own_step", "overrides"]

OWN_STEP = ("train_step", "test_step", "compute_loss")


def has_own_step(model: Any) -> bool:
    """Tell whether the model's class computes its loss or its steps in its own way."""
    return any(overrides(model, method) for method in OWN_STEP)


def overrides(model: Any, method: str) -> bool:
    """Tell whether the model's class has a method that is not Keras' own."""
    return getattr(type(model), method) is not getattr(keras.Model, method)
