"""Keep what layers remember (moving means, counters) the same on all ranks: each step's changes, averaged by rows.

Runs in rank processes.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from sparkdl.train.step_numbers import Counts

__all__ = ["MovingState", "layer_states"]


def layer_states(model: Any) -> list[tf.Variable]:
    """The floating variables that layers made as not trainable; the weights of a frozen layer are none of them."""
    found: dict[int, tf.Variable] = {}
    for layer in model._flatten_layers():
        for variable in getattr(layer, "_non_trainable_variables", ()):
            if tf.as_dtype(variable.dtype).is_floating:
                found.setdefault(id(variable), variable.value)
    return list(found.values())


class MovingState:
    """The changes of some variables in a step.

    Batch normalization's moving statistics become row-weighted means over the ranks in every step, so that all ranks
    validate with the same ones and any of them can be saved. Changes are averaged and not values: what no rank changes
    stays as it is, to the last bit.
    """

    def __init__(self, variables: list[tf.Variable]) -> None:
        self._variables = variables
        self._before: list[tf.Tensor] = []

    def begin(self) -> None:
        """Note the values before a step."""
        self._before = [tf.identity(variable) for variable in self._variables]

    def changes(self, counts: Counts) -> list[tf.Tensor]:
        """This rank's share of each change since `begin`; a ghost's is nothing."""
        differences = [v - before for v, before in zip(self._variables, self._before, strict=True)]
        return [tf.where(counts.real, d, tf.zeros_like(d)) * counts.share(d.dtype) for d in differences]

    def finish(self, summed: list[tf.Tensor]) -> None:
        """Set the values to those before the step and the changes of all ranks."""
        for variable, before, change in zip(self._variables, self._before, summed, strict=True):
            variable.assign(before + change)
