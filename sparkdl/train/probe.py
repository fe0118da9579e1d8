"""Call a model on some rows, and read all that depends on them: predictions, added losses, layer state, functions.

Runs in rank processes. What a call changes (layer state, metrics) is put back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from sparkdl.train.metrics import leaf_metrics
from sparkdl.train.steady import steady
from sparkdl.train.tried_functions import Key, TriedFunction, captured

__all__ = ["Measured", "Probe", "part_of"]


@dataclass(frozen=True, slots=True)
class Measured:
    """What a model gives for some rows.

    Attributes:
        rows: how many.
        predictions: each output, shape ``(rows, *shape)``.
        added: each loss of `model.losses`, float64.
        states: the layers' state variables after the call.
        values: by place among the tried functions: the values of each that was called.
        own_loss: what a compute_loss of the model's own gives, where targets were given; else None.
    """

    rows: int
    predictions: list[np.ndarray]
    added: np.ndarray
    states: list[np.ndarray]
    values: dict[int, np.ndarray]
    own_loss: float | None = None


def part_of(batch: Any, places: Any) -> Any:
    """The rows at these places (a slice or an array of indices) of each array of a batch."""
    return keras.tree.map_structure(lambda values: keras.ops.convert_to_numpy(values)[places], batch)


class Probe:
    """Measures a model.

    Args:
        functions: by their keys; called on the model's own predictions.
        states: state variables of layers.
        training: as the model is called.
    """

    def __init__(
        self,
        model: Any,
        *,
        training: bool,
        states: Sequence[Any] = (),
        functions: Mapping[Key, TriedFunction] | None = None,
    ) -> None:
        self._model = model
        self._training = training
        self._states = list(states)
        self._functions = dict(functions or {})
        self._traced: Callable[..., Any] | None = None

    def __call__(self, x: Any, y: Any = ()) -> Measured:
        """Measure the model on inputs `x` and, for functions and compute_loss, targets `y`, ``(rows, *shape)``."""
        with steady(self._model):
            predictions, added, states, values, own_loss = self._function(x, y)(x, y)
        return Measured(
            len(keras.tree.flatten(x)[0]),
            [value.numpy() for value in predictions],
            np.array([float(value) for value in added]),
            [value.numpy() for value in states],
            {place: value.numpy() for place, value in values.items()},
            float(own_loss[0]) if own_loss else None,
        )

    def _function(self, x: Any, y: Any) -> Callable[..., Any]:
        if self._model.run_eagerly or not self._training:
            return self._measure
        if self._traced is None:
            specs = keras.tree.map_structure(
                lambda v: tf.TensorSpec((None, *np.shape(v)[1:]), np.asarray(v).dtype), [x, y]
            )
            self._traced = tf.function(self._measure, input_signature=specs, autograph=False)
        return self._traced

    def _measure(self, x: Any, y: Any) -> Any:
        model = self._model
        x, y = keras.tree.map_structure(tf.convert_to_tensor, [x, y])
        kept = [v.value for v in (*self._states, *_metric_variables(model))]
        before = [tf.identity(variable) for variable in kept]
        y_pred = model(x, training=self._training) if model._call_has_training_arg else model(x)
        added = [tf.reduce_sum(tf.cast(loss, tf.float64)) for loss in model.losses]
        states = [tf.identity(variable.value) for variable in self._states]
        values = self._values(x, y, y_pred) if self._functions else {}
        own_loss = []
        if keras.tree.flatten(y) and type(model).compute_loss is not keras.Model.compute_loss:
            loss = model.compute_loss(x=x, y=y, y_pred=y_pred, sample_weight=None, training=self._training)
            own_loss = [tf.cast(loss, tf.float64)]
        for variable, value in zip(kept, before, strict=True):
            variable.assign(value)
        return [tf.identity(value) for value in keras.tree.flatten(y_pred)], added, states, values, own_loss

    def _values(self, x: Any, y: Any, y_pred: Any) -> dict[int, tf.Tensor]:
        model = self._model
        with captured(model) as pairs:
            if model._compile_loss is not None:
                model._compile_loss(y, y_pred, None)
            model.compute_metrics(x, y, y_pred, sample_weight=None)
        return {
            place: tf.convert_to_tensor(function.call(*function.arguments(pairs[key].y_true, pairs[key].y_pred)))
            for place, (key, function) in enumerate(self._functions.items())
            if key in pairs
        }


def _metric_variables(model: Any) -> list[Any]:
    variables = {id(v): v for metric in leaf_metrics(model.metrics) for v in metric.variables}
    return list(variables.values())
