"""Reduce, gather and send single values over ranks. Runs in rank processes."""

from __future__ import annotations

from typing import Any, NoReturn

import horovod.tensorflow as hvd
import keras
import tensorflow as tf

from sparkdl.errors import ConfigError

__all__ = ["allgather", "allreduce", "broadcast", "broadcast_global_variables", "reducescatter"]


def allreduce(
    value: Any,
    name: str | None = None,
    average: bool | None = None,
    prescale_factor: float = 1.0,
    postscale_factor: float = 1.0,
    op: Any = None,
    compression: Any = hvd.Compression.none,
) -> tf.Tensor:
    """Return the mean over ranks of a number or array, or what `op` says (hvd.Sum, hvd.Average), elementwise.

    Args:
        value: of one shape and dtype on all ranks.
        name: the operation's name.
        average: the old form of `op`: True is hvd.Average, False hvd.Sum.
        prescale_factor, postscale_factor: multiplied before and after.
        compression: `hvd.Compression.none` or `hvd.Compression.fp16`.
    """
    return hvd.allreduce(
        _tensor(value),
        average=average,
        op=op,
        name=name,
        prescale_factor=prescale_factor,
        postscale_factor=postscale_factor,
        compression=compression,
    )


def allgather(value: Any, name: str | None = None) -> tf.Tensor:
    """Concatenate the arrays of all ranks along the first dimension, in rank order."""
    return hvd.allgather(_tensor(value), name=name)


def broadcast(value: Any, root_rank: int, name: str | None = None) -> tf.Tensor:
    """Return the value that rank `root_rank` gives; of one shape and dtype on all ranks."""
    return hvd.broadcast(_tensor(value), root_rank, name=name)


def reducescatter(value: Any, name: str | None = None, op: Any = hvd.Average) -> tf.Tensor:
    """Return this rank's share, along the first dimension, of the mean (or what `op` says) over ranks."""
    return hvd.reducescatter(_tensor(value), op=op, name=name)


def broadcast_global_variables(root_rank: int) -> NoReturn:
    """Refuse to broadcast, as Horovod does since TensorFlow 2: no list of all variables exists."""
    raise ConfigError(
        f"broadcast_global_variables({root_rank}) does not work with TensorFlow 2; use "
        f"hvd.callbacks.BroadcastGlobalVariablesCallback({root_rank}) in model.fit, or "
        f"horovod.tensorflow.broadcast_variables([v.value for v in model.weights], {root_rank})"
    )


def _tensor(value: Any) -> tf.Tensor:
    return tf.convert_to_tensor(value.value if isinstance(value, keras.Variable) else value)
