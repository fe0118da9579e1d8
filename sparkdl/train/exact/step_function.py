"""A training step as one call into TensorFlow.

Runs in rank processes. Keras' own function takes the iterator as an argument, of which TensorFlow makes a type to
compare in every step, and gives its logs in an Optional, which costs two more operations: together 0.3 ms of a core,
as much as a small model's step takes (benchmarks/train.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from sparkdl.train.exact.counters import other_data

__all__ = ["StepFunction"]


class StepFunction:
    """What Keras calls `train_function`, for one step at a time: takes the data's iterator, returns the step's logs.

    It is traced once for an iterator, whose steps may have any number of rows; not at all where the model is to run
    eagerly. Raises tf.errors.OutOfRangeError at the data's end.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._data: Any = None
        self._step: Callable[[], Any]

    def __call__(self, data: Any) -> Any:
        """Take one step."""
        if data is not self._data:
            if not isinstance(data, tf.data.Iterator):
                raise other_data()
            self._data, self._step = data, self._step_of(data)
        return self._step()

    def _step_of(self, data: Any) -> Callable[[], Any]:
        def step() -> Any:
            return self._model.train_step(data.get_next())

        if self._model.run_eagerly:
            return step
        return tf.function(tf.autograph.experimental.do_not_convert(step))  # as Keras does: the step is as written
