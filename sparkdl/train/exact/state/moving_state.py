"""Keep what layers remember (moving means, counters) the same on all ranks by reducing each step's changes.

Runs in rank processes. How ranks' changes are reduced is found by trying (`find_reductions`), or declared by the layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from sparkdl.errors import ModelError
from sparkdl.train.exact.collective import max_tensor
from sparkdl.train.exact.counters import Counts
from sparkdl.train.exact.rounding import tolerance_of

__all__ = ["LayerState", "MovingState", "find_reductions", "layer_states"]

REDUCTIONS = ("mean", "sum", "max", "min")
# Layers of Keras whose state is a mean over rows, or does not depend on rows: batch normalization is as documented.
KNOWN_MEANS = (keras.layers.BatchNormalization, keras.layers.SpectralNormalization)


@dataclass(frozen=True, slots=True)
class LayerState:
    """Describe a variable that a layer made as not trainable.

    Attributes:
        name: the variable's name in messages: "'seen' of layer 'counter'".
        reduction: how the ranks' changes are reduced, where the layer declares it or is known; else None.
    """

    variable: Any
    name: str
    reduction: str | None


def layer_states(model: Any) -> list[LayerState]:
    """List the non-trainable float and integer variables of layers, excluding frozen weights.

    A layer declares how its state is reduced over ranks by `sparkdl_reduction = "mean"`, "sum", "max" or "min"
    on its class. Raises ModelError for another value.
    """
    found: dict[int, LayerState] = {}
    for layer in model._flatten_layers():
        declared = getattr(layer, "sparkdl_reduction", None)
        if declared is not None and declared not in REDUCTIONS:
            raise ModelError(
                f"layer {layer.name!r} ({type(layer).__name__}) has sparkdl_reduction={declared!r}; it must be one of "
                f"{', '.join(REDUCTIONS)}"
            )
        reduction = declared or ("mean" if isinstance(layer, KNOWN_MEANS) else None)
        for variable in getattr(layer, "_non_trainable_variables", ()):
            dtype = tf.as_dtype(variable.dtype)
            if dtype.is_floating or dtype.is_integer:
                name = f"{variable.name!r} of layer {layer.name!r}"
                found.setdefault(id(variable), LayerState(variable, name, reduction))
    return list(found.values())


def find_reductions(
    before: np.ndarray, whole: np.ndarray, parts: Sequence[np.ndarray], rows: Sequence[int]
) -> tuple[str, ...]:
    """Find the reductions that give the state after all of some rows from the states after parts of these rows.

    `whole`, `parts`: the states after a call with all rows, and with each part of `rows` rows, each from `before` on.
    Returns the ones of "mean" (of changes, by rows), "sum" (of changes), "max" and "min" that give the state of all
    rows. A state that does not change has all of them.
    """
    before, whole = np.asarray(before, np.float64), np.asarray(whole, np.float64)
    after = np.stack([np.asarray(part, np.float64) for part in parts])
    changes = after - before
    shares = np.asarray(rows, np.float64).reshape(-1, *[1] * before.ndim) / sum(rows)
    expected = {
        "mean": before + (changes * shares).sum(axis=0),
        "sum": before + changes.sum(axis=0),
        "max": after.max(axis=0),
        "min": after.min(axis=0),
    }
    # The scale of the changes: a large state must not hide that a small change differs.
    scale = max(float(np.abs(whole - before).max(initial=0.0)), float(np.abs(changes).max(initial=0.0)))
    rounding = 1e-6 * float(np.abs(before).max(initial=0.0))
    allowed = tolerance_of("float32") * scale + rounding
    return tuple(
        name for name, value in expected.items() if np.allclose(value, whole, rtol=0, atol=allowed, equal_nan=True)
    )


class MovingState:
    """Reduce the changes of layers' states in a step over all ranks.

    Batch normalization's moving moments become row-weighted means over the ranks in every step, so that all ranks
    validate with the same moments and any rank's can be saved. Changes are reduced and not values: what no rank changes
    stays as it is, to the last bit.
    """

    def __init__(self, states: Sequence[tuple[Any, str]]) -> None:
        self._variables = [variable for variable, _ in states]
        self._reductions = [reduction for _, reduction in states]
        self._before: list[tf.Tensor] = []

    def begin(self) -> None:
        """Note the values before a step."""
        self._before = [tf.identity(variable) for variable in self._variables]

    def changes(self, counts: Counts) -> list[tf.Tensor]:
        """Return this rank's part of each change since `begin` that is a mean or a sum; zero without rows."""
        found = []
        for variable, before, reduction in zip(self._variables, self._before, self._reductions, strict=True):
            if reduction not in ("mean", "sum"):
                continue
            change = tf.where(counts.real, variable - before, tf.zeros_like(before))
            # Horovod knows few integer types; float64 counts exactly beyond what a counter reaches.
            change = change if change.dtype.is_floating else tf.cast(change, tf.float64)
            found.append(change * counts.share(change.dtype) if reduction == "mean" else change)
        return found

    def finish(self, summed: Sequence[tf.Tensor], counts: Counts) -> None:
        """Set each variable to its value before the step plus the changes of all ranks, or to the ranks' extreme."""
        rest = iter(summed)
        states = zip(self._variables, self._before, self._reductions, strict=True)
        for index, (variable, before, reduction) in enumerate(states):
            if reduction in ("mean", "sum"):
                change = next(rest)
                whole = change if change.dtype == before.dtype else tf.cast(tf.round(change), before.dtype)
                variable.assign(before + whole)
            else:
                variable.assign(_extreme(variable, before, counts, reduction, name=f"state_{index}"))


def _extreme(variable: Any, before: tf.Tensor, counts: Counts, reduction: str, *, name: str) -> tf.Tensor:
    """Return the largest or smallest value of all ranks; a rank without rows has the value before the step."""
    own = tf.cast(tf.where(counts.real, tf.identity(variable), before), tf.float64)
    sign = 1.0 if reduction == "max" else -1.0
    return tf.cast(sign * max_tensor(sign * own, name=name), before.dtype)
