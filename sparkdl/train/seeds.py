"""Draw from (seed, step, rank): what a layer draws in a step does not depend on what was drawn before.

Runs in rank processes. Every generator of the model is set at the start of each step, so ranks draw differently, and
a run that goes on after an interruption needs no random state.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

__all__ = ["SeededDraws", "seed_generators"]

# TensorFlow takes seeds modulo this.
SEEDS = 2**31 - 2


def seed_generators(model: Any) -> list[Any]:
    """The generators of all layers, in a fixed order, and last the one of draws that name none."""
    from keras.src.random.seed_generator import global_seed_generator

    found: dict[int, Any] = {}
    for layer in model._flatten_layers():
        for generator in getattr(layer, "_seed_generators", ()):
            found.setdefault(id(generator), generator)
    with tf.init_scope():
        last = global_seed_generator()
    found.setdefault(id(last), last)
    return list(found.values())


class SeededDraws:
    """The generators of a model, for one rank of a run with this seed."""

    def __init__(self, generators: Sequence[Any], *, seed: int, rank: int) -> None:
        self._generators = generators
        # The user's own seed of a generator is part of its draws; without one, its place among the generators is.
        own = [generator._initial_seed for generator in generators]
        words = [
            np.random.SeedSequence((seed, place if mine is None else int(mine) % 2**63, mine is None)).generate_state(2)
            for place, mine in enumerate(own)
        ]
        self._own = np.array(words, np.int64)  # (generators, 2)
        self._rank = rank

    def set(self, step: tf.Tensor) -> None:
        """Set all generators for a step, int64 ()."""
        drawn = tf.random.stateless_uniform(
            self._own.shape, tf.stack([step, tf.constant(self._rank, step.dtype)]), 0, SEEDS, tf.int64
        )
        states = tf.unstack(tf.math.floormod(drawn + self._own, SEEDS))
        for generator, state in zip(self._generators, states, strict=True):
            generator.state.assign(tf.cast(state, generator.state.dtype))
