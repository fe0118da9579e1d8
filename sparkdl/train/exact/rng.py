"""Seed draws by (seed, step, rank), so that a layer's draws in a step do not depend on earlier draws.

Runs in rank processes. Every generator of the model is set at the start of each step, so ranks draw differently, and
a run that goes on after an interruption needs no saved random state.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import tensorflow as tf

from sparkdl.train.exact.patch import patched

__all__ = ["SeededDraws", "seed_generators"]

# TensorFlow takes seeds modulo this.
SEEDS = 2**31 - 2


def seed_generators(model: Any) -> list[Any]:
    """List the random generators of the model's layers, in a fixed order."""
    found = (one for layer in model._flatten_layers() for one in getattr(layer, "_seed_generators", ()))
    return list({id(one): one for one in found}.values())


class SeededDraws:
    """Seed a model's generators, and Keras' global one for draws without a generator, for one rank of a run."""

    def __init__(self, generators: Sequence[Any], *, seed: int, rank: int) -> None:
        from keras.src.random.seed_generator import global_seed_generator

        self._unnamed = global_seed_generator()
        self._generators = [*(one for one in generators if one is not self._unnamed), self._unnamed]
        # A generator's draws depend on the user's seed of it; without one, on its index among the generators.
        own = [generator._initial_seed for generator in self._generators]
        words = [
            np.random.SeedSequence((seed, index if mine is None else int(mine) % 2**63, mine is None)).generate_state(2)
            for index, mine in enumerate(own)
        ]
        self._own = np.array(words, np.int64)  # (generators, 2)
        self._rank = rank
        self._step: tf.Tensor | None = None
        self._graph: Any = None
        self.always_all = False
        """Set the global generator in every step, and not only in the steps that draw from it."""

    @contextmanager
    def prepared(self) -> Iterator[None]:
        """Seed the draws that name no generator, too, within the block."""
        original = self._unnamed.next

        def next_seed(ordered: bool = True) -> Any:
            step, self._step = self._step, None
            if step is not None:
                # In the graph of the step: a draw may stand in a branch or a loop of the graph.
                with self._graph.as_default() if self._graph is not None else nullcontext():
                    self._set(slice(-1, None), step)
            return original(ordered)

        with patched(self._unnamed, {"next": next_seed}):
            yield

    def set(self, step: tf.Tensor) -> None:
        """Set all generators for a step, int64 ()."""
        if self.always_all:
            self._set(slice(None), step)
            return
        if len(self._generators) > 1:
            self._set(slice(-1), step)
        # Most models name a generator for each draw: the global one is set by its first draw.
        self._step, self._graph = step, None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()

    def _set(self, which: slice, step: tf.Tensor) -> None:
        own = self._own[which]
        drawn = tf.random.stateless_uniform(
            own.shape, tf.stack([step, tf.constant(self._rank, step.dtype)]), 0, SEEDS, tf.int64
        )
        states = tf.unstack(tf.math.floormod(drawn + own, SEEDS))
        for generator, state in zip(self._generators[which], states, strict=True):
            generator.state.assign(tf.cast(state, generator.state.dtype))
