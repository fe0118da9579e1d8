"""The collective operations of a training run, over Horovod.

Runs in rank processes. Every rank calls each of these the same number of times in the same order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import horovod.tensorflow as hvd
import numpy as np
import tensorflow as tf

from sparkdl.errors import LaunchError
from sparkdl.launch.world import World

__all__ = ["broadcast", "join_world", "sum_gradients", "sum_over_ranks", "max_over_ranks"]


def join_world(world: World) -> None:
    """Connect with the other ranks. Raises LaunchError if Horovod sees another world than the launcher."""
    hvd.init()
    if (hvd.rank(), hvd.size()) != (world.rank, world.size):
        raise LaunchError(
            f"Horovod is rank {hvd.rank()} of {hvd.size()}, the launcher said {world.rank} of {world.size}"
        )


def broadcast(variables: Sequence[Any]) -> None:
    """Give every rank the values that the variables have on rank 0."""
    if variables:
        hvd.broadcast_variables(list(variables), root_rank=0)


def sum_gradients(gradients: Sequence[tf.Tensor], numbers: tf.Tensor) -> tuple[list[tf.Tensor], tf.Tensor]:
    """Sum dense gradients, and a vector of numbers that travels with them, over all ranks; inside a graph too.

    One grouped operation for each dtype: Horovod groups tensors of one dtype only.
    """
    tensors = [*gradients, numbers]
    summed: list[tf.Tensor] = [None] * len(tensors)
    for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
        places = [place for place, tensor in enumerate(tensors) if tensor.dtype == dtype]
        group = [tensors[place] for place in places]
        results = hvd.grouped_allreduce(group, op=hvd.Sum, name=f"sparkdl_gradients_{dtype.name}")
        for place, result in zip(places, results, strict=True):
            summed[place] = result
    return summed[:-1], summed[-1]


def sum_over_ranks(values: np.ndarray, *, name: str) -> np.ndarray:
    """The elementwise sum, float64, over all ranks. Eager."""
    return hvd.allreduce(tf.constant(values, tf.float64), op=hvd.Sum, name=f"sparkdl_{name}").numpy()


def max_over_ranks(values: np.ndarray, *, name: str) -> np.ndarray:
    """The elementwise maximum, float64, over all ranks. Eager."""
    return hvd.allreduce(tf.constant(values, tf.float64), op=hvd.Max, name=f"sparkdl_{name}").numpy()
