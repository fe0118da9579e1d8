"""Let a model's layers act on each row alone: without random draws, and with batch normalization by its moving moments.

Runs in rank processes, around the calls that try a model out. Dropout and batch normalization work per worker, as
documented, and would hide what other layers do.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import keras
import tensorflow as tf

from sparkdl.train.exact.patch import all_patched

__all__ = ["steady"]


def steady(model: Any) -> AbstractContextManager[None]:
    """Make draws of Keras give their middle, and batch normalization not look at the batch, within the block.

    Draws that go past Keras (`tf.random`, numpy) stay random.
    """
    from keras.src import backend

    layers = (layer for layer in model._flatten_layers() if isinstance(layer, keras.layers.BatchNormalization))
    calls = ((layer, {"call": _by_moving_moments(layer)}) for layer in layers)
    return all_patched([(backend.random, _DRAWS), *calls])


def _by_moving_moments(layer: Any) -> Any:
    original = layer.call

    def call(inputs: Any, training: Any = None, mask: Any = None) -> Any:
        return original(inputs, training=False, mask=mask)

    return call


def _filled(shape: Any, value: Any, dtype: Any) -> tf.Tensor:
    # A shape may be a tensor, as of tf.shape, or hold tensors, as of keras.ops.shape.
    sizes = shape if tf.is_tensor(shape) else tf.stack(list(shape)) if len(shape) else tf.zeros((0,), tf.int32)
    return tf.fill(tf.cast(sizes, tf.int32), tf.cast(value, dtype or keras.config.floatx()))


def _normal(shape: Any, mean: Any = 0.0, stddev: Any = 1.0, dtype: Any = None, seed: Any = None) -> tf.Tensor:
    return _filled(shape, mean, dtype)


def _uniform(shape: Any, minval: Any = 0.0, maxval: Any = 1.0, dtype: Any = None, seed: Any = None) -> tf.Tensor:
    dtype = dtype or keras.config.floatx()
    return _filled(shape, (tf.cast(minval, dtype) + tf.cast(maxval, dtype)) / 2, dtype)


def _randint(shape: Any, minval: Any, maxval: Any, dtype: Any = "int32", seed: Any = None) -> tf.Tensor:
    return _filled(shape, minval, dtype)


def _categorical(logits: Any, num_samples: Any, dtype: Any = "int64", seed: Any = None) -> tf.Tensor:
    return tf.cast(tf.repeat(tf.argmax(logits, -1)[:, None], num_samples, axis=1), dtype)


def _unchanged(values: Any, *_: Any, **__: Any) -> Any:
    return values


def _gamma(shape: Any, alpha: Any, dtype: Any = None, seed: Any = None) -> tf.Tensor:
    return _filled(shape, 1.0, dtype) * tf.cast(alpha, dtype or keras.config.floatx())


def _binomial(shape: Any, counts: Any, probabilities: Any, dtype: Any = None, seed: Any = None) -> tf.Tensor:
    dtype = dtype or keras.config.floatx()
    return _filled(shape, 1.0, dtype) * tf.cast(counts, dtype) * tf.cast(probabilities, dtype)


def _beta(shape: Any, alpha: Any, beta: Any, dtype: Any = None, seed: Any = None) -> tf.Tensor:
    dtype = dtype or keras.config.floatx()
    alpha, beta = tf.cast(alpha, dtype), tf.cast(beta, dtype)
    return _filled(shape, 1.0, dtype) * alpha / (alpha + beta)


# Replacements of the functions that all of Keras' layers and `keras.random` draw with.
_DRAWS = {
    "normal": _normal,
    "uniform": _uniform,
    "truncated_normal": _normal,
    "randint": _randint,
    "categorical": _categorical,
    "dropout": _unchanged,
    "shuffle": _unchanged,
    "gamma": _gamma,
    "binomial": _binomial,
    "beta": _beta,
}
