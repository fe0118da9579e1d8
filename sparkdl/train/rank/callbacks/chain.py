"""Put callbacks around the user's that keep all ranks alike: in rates, model, weights, and the step that is the last.

Runs in rank processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from sparkdl.errors import ConfigError, ModelError, shown
from sparkdl.launch.worker import graceful_stop
from sparkdl.train.exact.collective import gather_over_ranks, reduce_over_ranks
from sparkdl.train.exact.counters import WIND_DOWN, StepCounters
from sparkdl.train.exact.gradients import at_least_single
from sparkdl.train.exact.overrides import has_own_step
from sparkdl.train.rank.callbacks.divergence import difference
from sparkdl.train.rank.callbacks.recorder import EpochRecorder
from sparkdl.train.rank.run_steps import RunSteps
from sparkdl.train.rank.schedule import Schedule

__all__ = ["rank_callbacks"]


# Keras' callbacks that only write files or send messages: they run on rank 0 alone. By name, because no version of
# Keras has all of them.
WRITERS = tuple(
    getattr(keras.callbacks, name)
    for name in ("ModelCheckpoint", "OrbaxCheckpoint", "CSVLogger", "TensorBoard", "RemoteMonitor", "ProgbarLogger")
    if hasattr(keras.callbacks, name)
)


def rank_callbacks(
    user: Sequence[Any], run_steps: RunSteps, recorder: EpochRecorder, *, rank: int, schedule: Schedule
) -> list[Any]:
    """Return a rank's callbacks in order: set sums and rates, the user's, follow compilations, compare weights, agree
    to stop, record.

    Raises ConfigError unless `user` is a list of Keras callbacks, for Keras' BackupAndRestore, and for a
    ModelCheckpoint that would save what it does not say.
    """
    if not isinstance(user, (list, tuple)):
        raise ConfigError(f"callbacks() must return a list of Keras callbacks, not {type(user).__name__}")
    for callback in user:
        if not isinstance(callback, keras.callbacks.Callback):
            raise ConfigError(f"callbacks() gave {shown(callback)}, which is not a Keras callback")
        if isinstance(callback, keras.callbacks.BackupAndRestore):
            raise ConfigError(
                "callbacks() gave a BackupAndRestore, which would set this rank's model back alone; a run goes on from "
                "its run_dir by itself: leave it out, and see TrainConfig.checkpoint"
            )
        _check_model_checkpoint(callback, schedule, local=run_steps.options.local)
    own = [callback for callback in user if rank == 0 or not isinstance(callback, WRITERS)]
    first = _SetSumsAndRates(run_steps, steps=schedule.steps)
    same_model = SameModel()
    run_steps.followed.append(same_model.note)
    followed = _FollowCompilation(run_steps)
    return [first, *own, followed, same_model, SameWeights(), StopTogether(run_steps.numbers), recorder]


def _check_model_checkpoint(callback: Any, schedule: Schedule, *, local: bool) -> None:
    """Raise ConfigError for a ModelCheckpoint that a run without validation of each epoch, or local SGD, would mislead.

    Of the best `val_…`, Keras saves the model of every epoch that lacks the value, over the best one.
    """
    if not isinstance(callback, keras.callbacks.ModelCheckpoint):
        return
    rare = f"validation_every={schedule.validation_every} must be 1 with Keras' ModelCheckpoint"
    if schedule.validation_every > 1 and callback.save_best_only and str(callback.monitor).startswith("val_"):
        raise ConfigError(
            f"{rare}(save_best_only=True, monitor={callback.monitor!r}), which saves each epoch without that value "
            f"over the best one; use TrainConfig(checkpoint=CheckpointConfig(monitor={callback.monitor!r}))"
        )
    if schedule.validation_every > 1 and "{val_" in str(callback.filepath):
        raise ConfigError(f"{rare}({callback.filepath!r}), whose file names need a value that not each epoch has")
    if local and callback.save_freq != "epoch":
        raise ConfigError(
            f"sync_every must be 1 with Keras' ModelCheckpoint(save_freq={callback.save_freq!r}), which would save "
            "rank 0's weights where the ranks' are not averaged; use save_freq='epoch'"
        )


class _SetSumsAndRates(keras.callbacks.Callback):  # type: ignore[misc]
    """Reset sums and set rates; log the learning rate before one of the user's callbacks changes it.

    From here to `_FollowCompilation` the user's callbacks may compile the model.
    """

    def __init__(self, run_steps: RunSteps, *, steps: int) -> None:
        super().__init__()
        self._run_steps = run_steps
        self._steps = steps
        self._epoch = 0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._epoch = epoch
        self._run_steps.numbers.start_epoch()
        self._run_steps.allow_compile()

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self._run_steps.rates.start_step(self._epoch * self._steps + batch)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        logs.update(self._run_steps.rates.of_last_step())
        self._run_steps.allow_compile()


class _FollowCompilation(keras.callbacks.Callback):  # type: ignore[misc]
    """Make the steps anew where the user's callbacks have compiled the model."""

    def __init__(self, run_steps: RunSteps) -> None:
        super().__init__()
        self._run_steps = run_steps

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._run_steps.follow()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._run_steps.follow()


class SameModel(keras.callbacks.Callback):  # type: ignore[misc]
    """Raise ModelError if callbacks have changed which weights are trainable, or set another optimizer.

    Keras itself would silently use the old weights and optimizer until the model is compiled again. A user's train_step
    may set `trainable` while it is traced, as GANs do: such models are not checked.
    """

    def __init__(self) -> None:
        super().__init__()
        self._trainable: dict[int, str] = {}
        self._optimizer: Any = None

    def set_model(self, model: Any) -> None:
        super().set_model(model)
        self.note()

    def note(self) -> None:
        """Note what the model is compiled with now."""
        self._trainable = _trainable(self.model)
        self._optimizer = self.model.optimizer

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._check()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._check()

    def _check(self) -> None:
        if has_own_step(self.model):
            return
        now = _trainable(self.model)
        changed = [path for key, path in (self._trainable | now).items() if (key in self._trainable) != (key in now)]
        if changed:
            others = f" and {len(changed) - 1} more" if changed[1:] else ""
            raise ModelError(
                f"a callback has changed whether weight {changed[0]!r}{others} is trainable, which the steps of a run "
                "do not follow; compile the model after it, in on_epoch_begin or on_epoch_end of the callback, or set "
                "trainable in build_model"
            )
        if self.model.optimizer is not self._optimizer:
            raise ModelError(
                "a callback has given the model another optimizer, which the steps of a run do not follow; set values "
                "of the one that is there, or compile the model with the other one, in on_epoch_begin or on_epoch_end"
            )


def _trainable(model: Any) -> dict[int, str]:
    """Return the paths of the trainable weights by the id of the weight, because a path may occur twice."""
    return {id(weight): weight.path for weight in model.trainable_weights}


class StopTogether(keras.callbacks.Callback):  # type: ignore[misc]
    """Stop all ranks after the same step, the next one or the epoch's last, once any rank sets `stop_training`.

    A rank that stopped alone would leave the others waiting in their next allreduce without limit. For the same reason,
    when the launcher asks for a graceful stop, `numbers.winding_down` is set on all ranks after the same step.
    """

    def __init__(self, numbers: StepCounters) -> None:
        super().__init__()
        self._numbers = numbers
        self._asked = False

    def on_train_begin(self, logs: Any = None) -> None:
        self._asked = False
        self._numbers.ask_stop.assign(0.0)
        self._numbers.stops_asked.assign(0.0)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        asked = self._numbers.asked()
        if asked >= WIND_DOWN:
            self.model.stop_training = False
            self._numbers.winding_down = True
        elif asked > 0:
            self.model.stop_training = True
        elif self.model.stop_training:
            self.model.stop_training = False
            self._asked = True
            self._numbers.ask_stop.assign(1.0)
        elif graceful_stop.is_asked():
            self._numbers.ask_stop.assign(WIND_DOWN)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        mine = float(self._asked or self.model.stop_training)
        self.model.stop_training = bool(reduce_over_ranks("sum", np.array([mine]), name="stop")[0] > 0)


class SameWeights(keras.callbacks.Callback):  # type: ignore[misc]
    """Compare the norms of the weights after each epoch. Raises ModelError on every rank if they differ."""

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        weights = self.model.trainable_weights
        squares = np.array([float(tf.nn.l2_loss(at_least_single(weight.value))) for weight in weights])
        names = [f"the norm of {weight.path!r}" for weight in weights]
        found = difference(gather_over_ranks(np.sqrt(2 * squares), name="same_weights"), names)
        if found is not None:
            raise ModelError(
                f"after epoch {epoch + 1} ranks have different weights: {found}; a callback or train_step does on some "
                "ranks what it should do on all, as setting a learning rate"
            )
