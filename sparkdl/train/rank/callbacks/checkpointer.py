"""Save checkpoints of a run and the best epoch's model: the last of a rank's callbacks.

Runs in rank processes. Every rank takes part; rank 0 writes.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from itertools import chain
from typing import Any

import keras
import numpy as np

from sparkdl.errors import ConfigError, LaunchError
from sparkdl.launch.world import World
from sparkdl.train.exact.collective import reduce_over_ranks
from sparkdl.train.exact.state.metrics import leaf_metrics, reduced_states
from sparkdl.train.rank.callbacks.csv_log import csv_log_sizes, keep_columns
from sparkdl.train.rank.callbacks.recorder import EpochRecorder
from sparkdl.train.rank.run_steps import RunSteps
from sparkdl.train.rank.schedule import Schedule
from sparkdl.train.run.best_epoch import is_better, unknown_monitor
from sparkdl.train.run.best_model import Best, best_before, forget_best, keep_best
from sparkdl.train.run.checkpoint import Checkpoint, Position, open_arrays, sweep_checkpoints, write_checkpoint
from sparkdl.train.run.state import callback_states, epoch_arrays, restore_callbacks, restore_model, run_arrays
from sparkdl.train.spec import TrainSpec

__all__ = ["Checkpointer"]

log = logging.getLogger(__name__)


class Checkpointer(keras.callbacks.Callback):  # type: ignore[misc]
    """Commit checkpoints of the run and the best epoch's model.

    Args:
        direction: whether the "min" or the "max" of `checkpoint.monitor` is its best.
        facts: the description of the model, which every checkpoint holds beside the state.
        run_steps: the steps of the run; how a callback compiled the model is saved with the run's state.
        others: the user's callbacks, whose state is saved with the run's.
        schedule: the epochs of the run.
        resumed: the checkpoint that the run continues from, or None.
        write_best: writes the model as the best one; called on rank 0.
    """

    def __init__(
        self,
        task: TrainSpec,
        *,
        direction: str | None,
        facts: Mapping[str, Any],
        run_steps: RunSteps,
        world: World,
        others: Sequence[Any],
        recorder: EpochRecorder,
        schedule: Schedule,
        resumed: Checkpoint | None,
        write_best: Callable[[], object],
    ) -> None:
        super().__init__()
        self._run = task.run
        self._config = config = task.config.checkpoint
        self._direction = direction
        self._facts = facts
        self._run_steps = run_steps
        self._numbers = run_steps.numbers
        self._world_size = world.size
        self._rank = world.rank
        self._others = others
        self._recorder = recorder
        self._schedule = schedule
        self._resumed = resumed
        self._write_best = write_best
        self._epoch = 0
        # The best value of another metric, or in the other direction, cannot be compared with.
        self._best: float | None = None
        if resumed is not None and config.monitor is not None and direction is not None:
            self._best = best_before(task.run, resumed.facts, config.monitor, direction)
            if self._best is None and world.rank == 0:
                log.warning(
                    "the %s of %s is looked for from %s on: no epoch before has kept its model for it",
                    *(direction, config.monitor, f"epoch {resumed.position.epoch + 1}"),
                )

    def on_train_begin(self, logs: Any = None) -> None:
        # After the user's callbacks, whose on_train_begin has just reset their state.
        if self._resumed is not None:
            with open_arrays(self._resumed) as arrays:
                restore_callbacks(self._others, self._resumed.facts["callbacks"], arrays)
            if self._rank == 0:
                keep_columns(self._others)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._epoch = epoch
        self._forget_other_best()
        resumed = self._resumed
        if resumed is not None and resumed.position.step and resumed.position.epoch == epoch:
            # The epoch had begun before the interruption: what callbacks did at its beginning (such as multiplying the
            # learning rate) is in the checkpoint, and they have just done it a second time.
            with open_arrays(resumed) as arrays:
                restore_model(self.model, arrays)
                restore_callbacks(self._others, resumed.facts["callbacks"], arrays)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if batch + 1 == self._schedule.steps or self.model.stop_training:
            return
        every = self._config.every_steps
        if self._numbers.winding_down or (every and (batch + 1) % every == 0):
            self._save(Position(self._epoch, batch + 1))
        if self._numbers.winding_down:
            self._end(Position(self._epoch, batch + 1))

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._keep_best(logs or {})
        self._forget_other_best()
        last = epoch + 1 == self._schedule.epochs or self.model.stop_training
        if last or self._numbers.winding_down or (epoch + 1) % self._config.every_epochs == 0:
            self._save(Position(epoch + 1, 0))
        if self._numbers.winding_down and not last:
            self._end(Position(epoch + 1, 0))

    def _forget_other_best(self) -> None:
        """Look for the best epoch anew after a compilation with another loss or other metrics."""
        anew, self._run_steps.measures_anew = self._run_steps.measures_anew, False
        if anew and self._best is not None:
            self._best = None
            if self._rank == 0:
                forget_best(self._run)
                log.warning(
                    "a callback has compiled another loss or other metrics: the best %s is looked for from here on",
                    self._config.monitor,
                )

    def _end(self, position: Position) -> None:
        # The first rank that raises ends all others: wait until rank 0 has written.
        reduce_over_ranks("sum", np.zeros(1), name="wound_down")
        raise LaunchError(
            f"training was asked to end and has a checkpoint before {position}; the same call goes on from there"
        )

    def _keep_best(self, logs: dict[str, Any]) -> None:
        monitor = self._config.monitor
        if monitor is None:
            return
        if monitor.startswith("val_") and monitor not in logs and not self._schedule.validates(self._epoch):
            return
        if (wrong := unknown_monitor(monitor, logs)) is not None:
            raise ConfigError(wrong)
        if np.ndim(logs[monitor]) > 0:
            raise ConfigError(
                f"checkpoint.monitor={monitor!r} is a list of values; name a single number of the history"
            )
        value = float(logs[monitor])
        direction = self._direction or "min"
        if is_better(value, self._best, direction=direction):
            self._best = value
            if self._rank == 0:
                best = Best(monitor=monitor, direction=direction, value=value, epoch=self._epoch)
                keep_best(self._run, best, self._write_best)

    def _save(self, position: Position) -> None:
        in_epoch = position.step > 0
        # In the middle of an epoch each rank holds its own part of the sums.
        # A metric whose results are averaged has no state over all ranks: rank 0's is kept.
        leaves = leaf_metrics(self.model.metrics)
        averaged = self._run_steps.options.findings.averaged_metrics if self._world_size > 1 else ()
        reduced = [metric for index, metric in enumerate(leaves) if index not in averaged]
        summed = reduced_states(reduced) if in_epoch else contextlib.nullcontext()
        seconds = self._recorder.seconds() if in_epoch else None
        with summed:
            if self._rank == 0:
                states, arrays = callback_states(self._others)
                facts = {
                    **self._facts,
                    **asdict(self._recorder.recorded),
                    "seconds": seconds,
                    "best": self._best,
                    "monitor": self._config.monitor,
                    "direction": self._direction,
                    "callbacks": states,
                    "csv_logs": csv_log_sizes(self._others),
                    **({"compilation": self._run_steps.compilation} if self._run_steps.compilation else {}),
                    "epochs": self._schedule.epochs,
                    "stopped": bool(self.model.stop_training),
                }
                sums = epoch_arrays(self.model, self._numbers) if in_epoch else []
                write_checkpoint(self._run.checkpoints, position, facts, chain(run_arrays(self.model), sums, arrays))
                sweep_checkpoints(self._run.checkpoints, keep=self._config.keep)
