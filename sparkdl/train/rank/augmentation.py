"""Try the augment function of a run before training. Runs in rank processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from sparkdl.data.augment_form import function_name
from sparkdl.data.feed.augment import augment_rows
from sparkdl.data.feed.sample_rows import sample_rows
from sparkdl.data.feed.tensors import batch_of
from sparkdl.errors import ConfigError
from sparkdl.train.spec import TrainSpec

__all__ = ["check_augment"]

# Rows that the function is tried on.
ROWS = 32


def check_augment(task: TrainSpec) -> None:
    """Try the augment function on rows of the train split, each with a seed.

    Raises ConfigError where it does not return what the model takes, or, called again with the same rows and seeds,
    returns other values: those would be others after an interruption, and on another number of ranks.
    """
    augment = task.config.augment
    if augment is None:
        return
    rows = sample_rows(task.dataset, task.dataset.split("train"), most=ROWS)
    inputs, targets, *_ = batch_of(rows, task.dataset.layout, target=task.config.target)
    seeds = np.stack([np.full(len(rows[0]), task.config.seed), np.arange(len(rows[0]))], axis=1)
    # Draws of Python and numpy are made where a function is traced, TensorFlow's where it runs.
    other = ConfigError(
        f"augment={function_name(augment)} must return the same for the same row and seed, and keep no state; draw by "
        "its seed alone, as tf.random.stateless_uniform(shape, seed) and tf.image.stateless_random_… do. Keras "
        "layers that draw (RandomFlip and so on) belong into the model"
    )
    try:
        calls = [_traced(augment, inputs, targets, tf.constant(seeds)) for _ in range(2)]
        first, *again = calls[0](), calls[0](), calls[1]()
    except ValueError as error:
        if "tf.Variable" in str(error):  # a layer, which makes variables when it is called first
            raise other from error
        raise
    if not all(_same(first, values) for values in again):
        raise other


def _traced(augment: Callable[..., Any], inputs: Any, targets: Any, seeds: tf.Tensor) -> Callable[[], list[np.ndarray]]:
    function = tf.function(lambda: augment_rows(augment, inputs, targets, seeds), autograph=False)
    traced = function.get_concrete_function()
    return lambda: [tensor.numpy() for tensor in tf.nest.flatten(traced())]


def _same(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
    """Tell whether values are the same but for the rounding of sums in threads."""
    return all(np.allclose(a, b, rtol=1e-4, atol=1e-6, equal_nan=True) for a, b in zip(one, other, strict=True))
