"""Run the collective operations of a training run over Horovod.

Runs in rank processes. Every rank calls each function the same number of times in the same order.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import horovod.tensorflow as hvd
import numpy as np
import tensorflow as tf

from sparkdl.errors import LaunchError
from sparkdl.launch.world import World

__all__ = [
    "broadcast",
    "broadcast_text",
    "gather_over_ranks",
    "gather_slices",
    "gather_text",
    "join_world",
    "max_tensor",
    "reduce_over_ranks",
    "sum_tensors",
    "sum_vector",
]

_OPERATIONS = {"sum": hvd.Sum, "max": hvd.Max, "min": hvd.Min}


def join_world(world: World) -> None:
    """Connect with the other ranks. Raises LaunchError if Horovod sees another world than the launcher."""
    # Otherwise groups that are ready at the same time become one operation, and elements are added in another order.
    os.environ["HOROVOD_DISABLE_GROUP_FUSION"] = "1"
    hvd.init()
    if (hvd.rank(), hvd.size()) != (world.rank, world.size):
        raise LaunchError(
            f"Horovod is rank {hvd.rank()} of {hvd.size()}, the launcher said {world.rank} of {world.size}"
        )


def broadcast(variables: Sequence[Any]) -> None:
    """Give every rank the values that the variables have on rank 0."""
    if variables and hvd.size() > 1:
        hvd.broadcast_variables(list(variables), root_rank=0)


def sum_tensors(tensors: Sequence[tf.Tensor], *, name: str) -> list[tf.Tensor]:
    """Sum dense tensors over all ranks; inside a graph too.

    One grouped operation for each dtype: Horovod groups tensors of one dtype only.
    """
    summed: list[tf.Tensor] = [None] * len(tensors)
    for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
        indexes = [index for index, tensor in enumerate(tensors) if tensor.dtype == dtype]
        group = [tensors[index] for index in indexes]
        results = hvd.grouped_allreduce(group, op=hvd.Sum, name=f"sparkdl_{name}_{dtype.name}")
        for index, result in zip(indexes, results, strict=True):
            summed[index] = tf.ensure_shape(result, tensors[index].shape)
    return summed


def sum_vector(values: tf.Tensor, *, name: str) -> tf.Tensor:
    """Sum one tensor over all ranks; inside a graph too, and differentiable."""
    return hvd.allreduce(values, op=hvd.Sum, name=f"sparkdl_{name}")


def max_tensor(values: tf.Tensor, *, name: str) -> tf.Tensor:
    """Take the largest value of each element over all ranks; inside a graph too."""
    return tf.ensure_shape(hvd.allreduce(values, op=hvd.Max, name=f"sparkdl_{name}"), values.shape)


def gather_slices(slices: tf.IndexedSlices, *, name: str) -> tf.IndexedSlices:
    """Concatenate the slices of all ranks, in rank order; together the slices are the sparse sum over the ranks."""
    values = hvd.allgather(slices.values, name=f"sparkdl_{name}_values")
    indices = hvd.allgather(slices.indices, name=f"sparkdl_{name}_indices")
    return tf.IndexedSlices(values, indices, slices.dense_shape)


def reduce_over_ranks(how: str, values: np.ndarray, *, name: str) -> np.ndarray:
    """Return the elementwise "sum", "max" or "min", float64, over all ranks. Eager."""
    if hvd.size() == 1:
        return np.asarray(values, dtype=np.float64)
    return hvd.allreduce(tf.constant(values, tf.float64), op=_OPERATIONS[how], name=f"sparkdl_{name}").numpy()


def gather_over_ranks(values: np.ndarray, *, name: str) -> np.ndarray:
    """Gather the values of all ranks, float64 ``(ranks, values)``, from each rank's ``(values,)``. Eager."""
    if hvd.size() == 1:
        return np.asarray(values, dtype=np.float64)[None]
    return hvd.allgather(tf.constant(values[None], tf.float64), name=f"sparkdl_{name}").numpy()


def gather_text(text: str, *, name: str) -> list[str]:
    """Gather one text of each rank, in rank order. Eager."""
    own = np.frombuffer(text.encode(), dtype=np.uint8)
    lengths = gather_over_ranks(np.array([len(own)]), name=f"{name}_length")[:, 0].astype(int)
    together = own if hvd.size() == 1 else hvd.allgather(tf.constant(own), name=f"sparkdl_{name}").numpy()
    return [part.tobytes().decode() for part in np.split(together, np.cumsum(lengths)[:-1])]


def broadcast_text(text: str, *, name: str) -> str:
    """Give every rank the text of rank 0. Eager."""
    if hvd.size() == 1:
        return text
    own = tf.constant(np.frombuffer(text.encode() if hvd.rank() == 0 else b"", dtype=np.uint8))
    return hvd.allgather(own, name=f"sparkdl_{name}").numpy().tobytes().decode()
