"""Give programs Horovod's callbacks for Keras. Runs in rank processes."""

from __future__ import annotations

from collections.abc import Iterable, MutableMapping
from typing import Any, NoReturn

import horovod.tensorflow as hvd
import keras
import numpy as np
import tensorflow as tf

from sparkdl.compat.horovod_keras.learning_rate import LearningRateScheduleCallback, LearningRateWarmupCallback
from sparkdl.compat.horovod_keras.reduction import reference
from sparkdl.errors import ConfigError, shown
from sparkdl.train.exact.collective import gather_text

__all__ = [
    "BestModelCheckpoint",
    "BroadcastGlobalVariablesCallback",
    "LearningRateScheduleCallback",
    "LearningRateWarmupCallback",
    "MetricAverageCallback",
]


class BroadcastGlobalVariablesCallback(keras.callbacks.Callback):  # type: ignore[misc]
    """Give all ranks the weights, and the state of the optimizer, of one rank, after the first batch of `fit`.

    By then all variables exist. The state of random generators (dropout) stays each rank's own. Where one rank has this
    callback, all have it.

    Args:
        root_rank: the rank whose values all get.
        device: the device on which the values are sent; by default where they are.
        local_variables: a variable or variables of the model that stay each rank's own.
    """

    def __init__(self, root_rank: int, device: str = "", local_variables: Any = None) -> None:
        super().__init__()
        self.root_rank = root_rank
        self.device = device
        self.broadcast_done = False
        self._local: set[Any] = set()
        given = [] if local_variables is None else local_variables
        for variable in given if isinstance(given, Iterable) and not _is_variable(given) else [given]:
            self.register_local_var(variable)

    def register_local_var(self, var: Any) -> None:
        """Leave a variable of the model as it is on each rank."""
        if not _is_variable(var):
            raise ConfigError(f"local_variables={shown(var)} must be variables of Keras or TensorFlow")
        self._local.add(reference(var))

    def on_train_begin(self, logs: Any = None) -> None:
        """Refuse a rank that does not exist, for which all others would wait."""
        if self.root_rank not in range(hvd.size()):
            raise ConfigError(f"root_rank={shown(self.root_rank)} must be from 0 to {hvd.size() - 1}, the last rank")

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Send the values, the first time."""
        if self.broadcast_done:
            return
        weights = [variable for variable in self.model.weights if reference(variable) not in self._local]
        with tf.device(self.device):
            for index, variable in enumerate([*weights, *self.model.optimizer.variables]):
                name = f"BroadcastGlobalVariablesCallback_{index}"
                variable.assign(hvd.broadcast(variable.value, self.root_rank, name=name))
        self.broadcast_done = True


class MetricAverageCallback(keras.callbacks.Callback):  # type: ignore[misc]
    """Replace the logs of an epoch by their means over all ranks, each rank counting the same.

    It comes before the callbacks that use the logs (ReduceLROnPlateau, EarlyStopping, TensorBoard), on all ranks.

    Args:
        device: the device on which the values are averaged.
    """

    def __init__(self, device: str = "") -> None:
        super().__init__()
        self.device = device

    def on_epoch_end(self, epoch: int, logs: MutableMapping[str, Any] | None = None) -> None:
        """Average the logs in place. Raises ConfigError where ranks have other logs, or one that is not a number."""
        logs = {} if logs is None else logs
        names = sorted(logs)
        values = [_numbers(name, logs[name]) for name in names]
        described = ", ".join(f"{name}{list(value.shape) or ''}" for name, value in zip(names, values, strict=True))
        of_ranks = gather_text(described, name="MetricAverageCallback_names")
        other = next((rank for rank, text in enumerate(of_ranks) if text != of_ranks[0]), None)
        if other is not None:
            raise ConfigError(
                f"MetricAverageCallback: rank {other} logs {shown(of_ranks[other])} and rank 0 {shown(of_ranks[0])}; "
                "give all ranks the same metrics, validation data and callbacks that add logs"
            )
        if not names:
            return
        with tf.device(self.device):
            own = tf.constant(np.concatenate([value.ravel() for value in values]))
            means = hvd.allreduce(own, op=hvd.Average, name="MetricAverageCallback").numpy()
        ends = np.cumsum([value.size for value in values])[:-1]
        for name, value, mean in zip(names, values, np.split(means, ends), strict=True):
            logs[name] = mean.reshape(value.shape) if value.shape else float(mean[0])


class BestModelCheckpoint(keras.callbacks.Callback):  # type: ignore[misc]
    """Refuse Horovod's callback for its Spark estimators, which choose the file."""

    def __init__(self, *_: Any, **__: Any) -> NoReturn:
        raise ConfigError(
            "BestModelCheckpoint is not supported: it belongs to horovod.spark, which chooses its file; use "
            "keras.callbacks.ModelCheckpoint(filepath, save_best_only=True) on rank 0"
        )


def _is_variable(value: Any) -> bool:
    return isinstance(value, (keras.Variable, tf.Variable))


def _numbers(name: str, value: Any) -> np.ndarray:
    """Return a logged value as float64 of its shape."""
    try:
        return np.asarray(keras.ops.convert_to_numpy(value), dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"MetricAverageCallback: {name}={shown(value)} must be a number or an array of numbers"
        ) from error
