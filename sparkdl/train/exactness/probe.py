"""Call a model on some rows, and read all that depends on them: predictions, added losses, layer state, functions.

Runs in rank processes. What a call changes (layer state, metrics) is put back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from sparkdl.train.exact.state.batch_values import Noted, metrics_of_layers, noted
from sparkdl.train.exact.state.metrics import metric_variables
from sparkdl.train.exactness.functions import Key, TriedFunction, captured
from sparkdl.train.exactness.steady import steady

__all__ = ["LEAST_ROWS", "Cut", "Probe", "part_of"]

LEAST_ROWS = 4
"""Fewer rows than this prove nothing."""


@dataclass(frozen=True, slots=True)
class Measured:
    """Hold a model's outputs and states for some rows.

    Attributes:
        rows: the number of rows.
        predictions: each output, shape ``(rows, *shape)``.
        added: each loss of `model.losses`, float64.
        states: the layers' state variables after the call.
        values: the values of each function that was called, by its index among the tried functions.
        own_loss: the value of the model's own compute_loss, where targets were given; else None.
        noted: the single values that metrics of layers got, by the metric's index among `metrics_of_layers`.
    """

    rows: int
    predictions: list[np.ndarray]
    added: np.ndarray
    states: list[np.ndarray]
    values: dict[int, np.ndarray]
    own_loss: float | None = None
    noted: Noted = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Cut:
    """Hold a model's measures on some rows, and on two parts of these rows in order."""

    whole: Measured
    parts: tuple[Measured, ...]

    @property
    def places(self) -> list[np.ndarray]:
        """The indexes of each part's rows among all rows."""
        stops = np.cumsum([part.rows for part in self.parts])
        return [np.arange(stop - part.rows, stop) for stop, part in zip(stops, self.parts, strict=True)]


def part_of(batch: Any, indexes: Any) -> Any:
    """Select rows (a slice or an array of indexes) of each array of a batch."""
    return keras.tree.map_structure(lambda values: keras.ops.convert_to_numpy(values)[indexes], batch)


class Probe:
    """Measure a model on all of some rows, and on two parts of these rows.

    Args:
        functions: the functions by their keys; called on the model's own predictions.
        states: state variables of layers.
        training: the value of `training` that the model is called with.
        repeated: whether the probe is called often enough for a graph to be worth its time.
    """

    def __init__(
        self,
        model: Any,
        *,
        training: bool,
        states: Sequence[Any] = (),
        functions: Mapping[Key, TriedFunction] | None = None,
        repeated: bool = False,
    ) -> None:
        self._model = model
        self._training = training
        self._states = list(states)
        self._functions = dict(functions or {})
        self._graph = repeated and not model.run_eagerly
        self._traced: Callable[..., Any] | None = None
        self._indexes: list[int] = []

    def __call__(self, x: Any, y: Any = ()) -> Cut:
        """Measure the model on inputs `x` and, for functions and compute_loss, targets `y`, ``(rows, *shape)``."""
        rows = len(keras.tree.flatten(x)[0])
        # No part is half of the rows: means of halves are alike more often.
        at = max(1, rows * 3 // 8)
        x, y = keras.tree.map_structure(tf.convert_to_tensor, [x, y])
        with ExitStack() as stack:
            if self._traced is None:
                stack.enter_context(steady(self._model))
            if self._graph:
                self._traced = self._traced or self._trace(x, y)
                whole, *parts = self._traced(x, y, tf.constant(at))
            else:
                whole, *parts = self._measure_cut(x, y, at)
        of_parts = (self._measured(at, parts[0]), self._measured(rows - at, parts[1]))
        return Cut(self._measured(rows, whole), of_parts)

    def _measured(self, rows: int, given: Any) -> Measured:
        predictions, added, states, values, own_loss, single = given
        return Measured(
            rows,
            [value.numpy() for value in predictions],
            np.array([float(value) for value in added]),
            [value.numpy() for value in states],
            {index: value.numpy() for index, value in values.items()},
            float(own_loss[0]) if own_loss else None,
            [(index, float(value)) for index, value in zip(self._indexes, single, strict=True)],
        )

    def _trace(self, x: Any, y: Any) -> Callable[..., Any]:
        specs = keras.tree.map_structure(lambda v: tf.TensorSpec((None, *v.shape[1:]), v.dtype), [x, y])
        measure = tf.function(self._measure, input_signature=specs, autograph=False)
        traced = tf.function(
            lambda x, y, at: self._measure_cut(x, y, at, measure),
            input_signature=[*specs, tf.TensorSpec((), tf.int32)],
            autograph=False,
        )
        # The concrete function does not look for the graph of its arguments at each call.
        return traced.get_concrete_function()

    def _measure_cut(self, x: Any, y: Any, at: Any, measure: Callable[..., Any] | None = None) -> list[Any]:
        measure = measure or self._measure
        first = keras.tree.map_structure(lambda values: values[:at], [x, y])
        rest = keras.tree.map_structure(lambda values: values[at:], [x, y])
        return [measure(x, y), measure(*first), measure(*rest)]

    def _measure(self, x: Any, y: Any) -> Any:
        model = self._model
        kept = [v.value for v in (*self._states, *metric_variables(model))]
        before = [tf.identity(variable) for variable in kept]
        with noted(metrics_of_layers(model)) as values_of_layers:
            y_pred = model(x, training=self._training) if model._call_has_training_arg else model(x)
        self._indexes = [index for index, _ in values_of_layers]
        single = [tf.cast(value, tf.float64) for _, value in values_of_layers]
        added = [tf.reduce_sum(tf.cast(loss, tf.float64)) for loss in model.losses]
        states = [tf.identity(variable.value) for variable in self._states]
        values = self._values(x, y, y_pred) if self._functions else {}
        own_loss = []
        if keras.tree.flatten(y) and type(model).compute_loss is not keras.Model.compute_loss:
            # Keras' own caller: the user's compute_loss need not take `training`.
            loss = model._compute_loss(x=x, y=y, y_pred=y_pred, sample_weight=None, training=self._training)
            own_loss = [tf.cast(loss, tf.float64)]
        for variable, value in zip(kept, before, strict=True):
            variable.assign(value)
        return [tf.identity(value) for value in keras.tree.flatten(y_pred)], added, states, values, own_loss, single

    def _values(self, x: Any, y: Any, y_pred: Any) -> dict[int, tf.Tensor]:
        model = self._model
        with captured(model) as pairs:
            if model._compile_loss is not None:
                model._compile_loss(y, y_pred, None)
            model.compute_metrics(x, y, y_pred, sample_weight=None)
        return {
            index: tf.convert_to_tensor(function.call(*function.arguments(pairs[key].y_true, pairs[key].y_pred)))
            for index, (key, function) in enumerate(self._functions.items())
            if key in pairs
        }
