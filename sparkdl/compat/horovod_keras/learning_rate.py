"""Set learning rates by the formulas of Horovod's callbacks. Runs in rank processes.

The warm-up is that of Goyal et al. 2017, https://arxiv.org/abs/1706.02677, §2.2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import horovod.tensorflow as hvd
import keras

from sparkdl.errors import ConfigError
from sparkdl.train.exact.optimizers import updating_optimizers

__all__ = ["LearningRateScheduleCallback", "LearningRateWarmupCallback"]


class LearningRateScheduleCallback(keras.callbacks.Callback):  # type: ignore[misc]
    """Set the learning rate to `initial_lr * multiplier(epoch)`, in the epochs from `start_epoch` to `end_epoch`.

    Args:
        initial_lr: the rate that is multiplied; None: the one that the optimizer has when training begins.
        multiplier: a function of the epoch, or a number m for `m ** (epoch - start_epoch)`.
        start_epoch: the first epoch, from 0, in which the rate is set.
        end_epoch: the epoch from which on it is not; None: to the end.
        staircase: True sets the rate at the beginning of each epoch; False before each batch, and counts the epoch as
            `epoch + batch / steps_per_epoch`.
        momentum_correction: multiply the velocities of an optimizer with momentum by the ratio of the new rate to the
            old one, since they hold the old rate (Goyal et al. 2017, §3). Horovod multiplies the momentum by it for
            one batch, which is the same; only the look-ahead of nesterov=True keeps the momentum here.
        steps_per_epoch: the batches of an epoch; None: what `fit` says.
    """

    def __init__(
        self,
        initial_lr: float | None,
        multiplier: float | Callable[[float], float],
        start_epoch: int = 0,
        end_epoch: int | None = None,
        staircase: bool = True,
        momentum_correction: bool = True,
        steps_per_epoch: int | None = None,
    ) -> None:
        super().__init__()
        self.initial_lr = initial_lr
        self.start_epoch = start_epoch
        self.end_epoch = end_epoch
        self.staircase = staircase
        self.momentum_correction = momentum_correction
        self.steps_per_epoch = steps_per_epoch
        self.current_epoch = 0
        self.multiplier: Callable[[float], float] = (
            multiplier if callable(multiplier) else lambda epoch: multiplier ** (epoch - start_epoch)
        )

    def on_train_begin(self, logs: Any = None) -> None:
        """Take what was not given. Raises ConfigError for an optimizer whose rate cannot be set."""
        rate = self._rate()
        if self.initial_lr is None:
            self.initial_lr = rate
        if not self.staircase and not self.steps_per_epoch:
            self.steps_per_epoch = (self.params or {}).get("steps")
            if not self.steps_per_epoch:
                raise ConfigError(
                    f"steps_per_epoch=None of {type(self).__name__} must be the batches of an epoch: fit does not "
                    "know how many its data has"
                )
        self._velocities()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Count the epochs."""
        self.current_epoch = epoch

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Set the rate, where it is time."""
        epoch = self.current_epoch
        if epoch < self.start_epoch or (self.end_epoch is not None and epoch >= self.end_epoch):
            return
        if not self.staircase:
            assert self.steps_per_epoch
            self._set(epoch + batch / self.steps_per_epoch)
        elif batch == 0:
            self._set(epoch)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Log the rate, as "lr"."""
        if logs is not None:
            logs["lr"] = self._rate()

    def _rate(self) -> float:
        optimizer = self.model.optimizer
        try:
            rate = optimizer.learning_rate
        except AttributeError:  # a MultiOptimizer
            rate = None
        if not isinstance(rate, keras.Variable):
            raise ConfigError(
                f"learning_rate of optimizer {optimizer.name!r} must be a number for {type(self).__name__}, which sets "
                "it; it is a schedule, or the optimizer combines several"
            )
        return float(keras.ops.convert_to_numpy(rate))

    def _set(self, epoch: float) -> None:
        assert self.initial_lr is not None
        old, new = self._rate(), self.initial_lr * self.multiplier(epoch)
        self.model.optimizer.learning_rate = new
        velocities = self._velocities() if new != old else []
        if velocities and old == 0:
            raise ConfigError(
                "momentum_correction=True must be False for a learning rate that was 0: velocities have no ratio to it"
            )
        for velocity in velocities:
            velocity.assign(velocity.value * (new / old))

    def _velocities(self) -> list[Any]:
        """List the variables that hold the learning rate of earlier batches, if they are to be corrected."""
        if not self.momentum_correction:
            return []
        (optimizer,) = updating_optimizers(self.model.optimizer)
        if not getattr(optimizer, "momentum", 0):
            return []
        for kind, velocities in ((keras.optimizers.SGD, "momentums"), (keras.optimizers.RMSprop, "_momentums")):
            if isinstance(optimizer, kind) and type(optimizer).update_step is kind.update_step:
                return [one for one in getattr(optimizer, velocities, ()) if one is not None]
        raise ConfigError(
            f"momentum_correction=True must be False for optimizer {optimizer.name!r}: only SGD's and RMSprop's "
            "velocities are known to hold the learning rate"
        )


class LearningRateWarmupCallback(LearningRateScheduleCallback):
    """Raise the learning rate, batch by batch, from `initial_lr / hvd.size()` to `initial_lr`.

    After batch b (from 1) of epoch e (from 0) the rate is
    `initial_lr / size * ((size - 1) * (e + b / steps_per_epoch) / warmup_epochs + 1)`.

    Args:
        initial_lr: the rate at the end; None: the one that the optimizer has when training begins.
        warmup_epochs: the epochs that this takes.
        momentum_correction, steps_per_epoch: as in `LearningRateScheduleCallback`.
        verbose: 1 prints a line at the end, on rank 0.
    """

    def __init__(
        self,
        initial_lr: float | None = None,
        warmup_epochs: int = 5,
        momentum_correction: bool = True,
        steps_per_epoch: int | None = None,
        verbose: int = 0,
    ) -> None:
        def multiplier(epoch: float) -> float:
            assert self.steps_per_epoch
            epoch += 1 / self.steps_per_epoch  # round numbers at the end of each epoch
            return (epoch * (hvd.size() - 1) / warmup_epochs + 1) / hvd.size()

        super().__init__(
            initial_lr,
            multiplier,
            end_epoch=warmup_epochs,
            staircase=False,
            momentum_correction=momentum_correction,
            steps_per_epoch=steps_per_epoch,
        )
        self.warmup_epochs = warmup_epochs
        self.verbose = verbose

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Log the rate, and say when the warm-up has ended."""
        super().on_epoch_end(epoch, logs)
        if epoch == self.warmup_epochs - 1 and self.verbose > 0 and hvd.rank() == 0:
            print(f"\nEpoch {epoch + 1}: finished gradual learning rate warmup to {self._rate():g}.")  # noqa: T201
