"""Normalize batches by the moments of the global batch.

Runs in rank processes. `_moments` is replaced on each layer's instance. Horovod's allreduce has a gradient, so that the
moments of all ranks depend on the rows of each rank.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import keras
import tensorflow as tf

from sparkdl.train.exact.collective import sum_vector
from sparkdl.train.exact.patch import all_patched

__all__ = ["SyncedMoments", "synced_layers"]


def synced_layers(model: Any, *, sync_all: bool) -> list[Any]:
    """List the batch normalization layers with `synchronized`, or all of them if `sync_all`."""
    layers = [layer for layer in model._flatten_layers() if isinstance(layer, keras.layers.BatchNormalization)]
    return [layer for layer in layers if sync_all or layer.synchronized]


class SyncedMoments:
    """Compute moments over all ranks. `real` must be set before a step, bool (): whether this rank has rows."""

    def __init__(self) -> None:
        self.real: tf.Tensor | None = None

    def of(self, layers: list[Any]) -> AbstractContextManager[None]:
        """Make the layers normalize by the global batch, within the block."""
        names = ((layer, f"batch_norm_{index}") for index, layer in enumerate(layers))
        return all_patched((layer, {"_moments": self._moments(layer, name)}) for layer, name in names)

    def _moments(self, layer: Any, name: str) -> Callable[[Any, Any], tuple[tf.Tensor, tf.Tensor]]:
        def moments(inputs: tf.Tensor, mask: Any) -> tuple[tf.Tensor, tf.Tensor]:
            real = self.real
            axes = layer._reduction_axes
            inputs = tf.where(real, inputs, tf.zeros_like(inputs))
            # Weights of the elements: 0 for those of a padding row and for masked ones.
            shape = tf.shape(inputs)
            weights = (
                tf.ones_like(inputs) if mask is None else tf.broadcast_to(tf.cast(mask[..., None], inputs.dtype), shape)
            )
            weights = tf.where(real, weights, tf.zeros_like(weights))
            sums = tf.stack([tf.reduce_sum(inputs * weights, axes), tf.reduce_sum(weights, axes)])  # (2, channels)
            total, count = tf.unstack(sum_vector(sums, name=f"{name}_mean"))
            # Keras divides by a little more where there is a mask.
            count += 0.0 if mask is None else keras.config.epsilon()
            mean = total / count
            wide = tf.reshape(
                mean, [-1 if axis == layer.axis % inputs.shape.rank else 1 for axis in range(inputs.shape.rank)]
            )
            squares = tf.reduce_sum(tf.square(inputs - wide) * weights, axes)
            variance = sum_vector(squares, name=f"{name}_variance") / count
            # The gradient of a padding row, which may be NaN, must not reach the other ranks' rows.
            return tuple(tf.where(real, value, tf.stop_gradient(value)) for value in (mean, variance))

        return moments
