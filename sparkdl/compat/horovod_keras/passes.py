"""Add up the gradients of several backward passes before they are reduced and applied. Runs in rank processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from sparkdl.compat.horovod_keras.reduction import reference
from sparkdl.errors import ConfigError

__all__ = ["Passes"]


class Passes:
    """Hold the sums of gradients since the last update.

    Args:
        steps: the backward passes per update.
        average: whether the update gets the mean of the passes' gradients; their sum otherwise.
    """

    def __init__(self, steps: int, *, average: bool) -> None:
        self.steps = steps
        self._average = average
        self._sums: dict[Any, tf.Variable] = {}
        with tf.init_scope():
            self._count = tf.Variable(0, dtype=tf.int64, trainable=False, name="backward_passes")

    def add(
        self,
        gradients: Sequence[Any],
        variables: Sequence[Any],
        *,
        update: Callable[[list[Any]], None],
        skip: Callable[[], Any],
    ) -> None:
        """Add the gradients of one pass; call `update` with what is added up after the last pass, else `skip`.

        Both are traced where this is called in a graph. Raises ConfigError for a sparse gradient.
        """
        sums = [self._sum(gradient, variable) for gradient, variable in zip(gradients, variables, strict=True)]
        for total, gradient in zip(sums, gradients, strict=True):
            if total is not None:
                total.assign_add(gradient)
        self._count.assign_add(1)

        def last() -> None:
            # Copies, since the sums start anew below.
            totals = [None if total is None else tf.identity(total) for total in sums]
            if self._average:
                totals = [None if total is None else total / self.steps for total in totals]
            update(totals)
            for total in sums:
                if total is not None:
                    total.assign(tf.zeros_like(total))
            self._count.assign(0)

        def other() -> None:
            skip()

        tf.cond(tf.equal(self._count, self.steps), last, other)

    def _sum(self, gradient: Any, variable: Any) -> tf.Variable | None:
        if gradient is None:
            return None
        if isinstance(gradient, tf.IndexedSlices):
            raise ConfigError(
                f"sparse_as_dense=False must be True with backward_passes_per_step={self.steps}: the gradient of "
                f"{variable.name} is sparse"
            )
        key = reference(variable)
        if key not in self._sums:
            with tf.init_scope():
                self._sums[key] = tf.Variable(tf.zeros(variable.shape, gradient.dtype), trainable=False)
        return self._sums[key]
