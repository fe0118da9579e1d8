"""The library's own Keras callbacks: history, progress, and stopping all ranks at the same step.

Run in rank processes, around the user's callbacks.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from sparkdl.errors import ConfigError
from sparkdl.launch.events import emit
from sparkdl.launch.world import World
from sparkdl.train.collective import max_over_ranks, sum_over_ranks
from sparkdl.train.exact_step import StepNumbers
from sparkdl.train.learning_rate import LearningRates

__all__ = ["EpochRecorder", "StopTogether", "rank_callbacks"]

# The bar on the driver's terminal moves this often at most.
PROGRESS_EVERY_S = 0.2


def rank_callbacks(
    user: Sequence[Any],
    numbers: StepNumbers,
    rates: LearningRates,
    world: World,
    *,
    epochs: int,
    steps: int,
    rows: int,
) -> tuple[list[Any], EpochRecorder]:
    """The callbacks of a rank, in their order: sums and rates set first, the user's, stop agreed, then recorded."""
    if not isinstance(user, (list, tuple)):
        raise ConfigError(f"callbacks() must return a list of Keras callbacks, not {type(user).__name__}")
    recorder = EpochRecorder(numbers, world, epochs=epochs, steps=steps, rows=rows)
    return [_SetSumsAndRates(numbers, rates, steps=steps), *user, StopTogether(numbers), recorder], recorder


class _SetSumsAndRates(keras.callbacks.Callback):  # type: ignore[misc]
    """What comes before the user's callbacks: the epoch's logs get the learning rate before one of them changes it."""

    def __init__(self, numbers: StepNumbers, rates: LearningRates, *, steps: int) -> None:
        super().__init__()
        self._numbers = numbers
        self._rates = rates
        self._steps = steps
        self._epoch = 0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._epoch = epoch
        self._numbers.start_epoch()

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self._rates.start_step(self._epoch * self._steps + batch)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        logs.update(self._rates.of_last_step())


class StopTogether(keras.callbacks.Callback):  # type: ignore[misc]
    """Where any rank sets `stop_training`, all ranks stop after the same step: the next one, or the epoch's last.

    A rank that broke off alone would leave the others waiting in their next allreduce for ever.
    """

    def __init__(self, numbers: StepNumbers) -> None:
        super().__init__()
        self._numbers = numbers
        self._asked = False

    def on_train_begin(self, logs: Any = None) -> None:
        self._asked = False
        self._numbers.ask_stop.assign(0.0)
        self._numbers.stops_asked.assign(0.0)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if float(self._numbers.stops_asked.numpy()) > 0:
            self.model.stop_training = True
        elif self.model.stop_training:
            self.model.stop_training = False
            self._asked = True
            self._numbers.ask_stop.assign(1.0)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        mine = float(self._asked or self.model.stop_training)
        self.model.stop_training = bool(sum_over_ranks(np.array([mine]), name="stop")[0] > 0)


class EpochRecorder(keras.callbacks.Callback):  # type: ignore[misc]
    """Collects the history and sends progress to the driver.

    Attributes:
        history: one dict per epoch: epoch, the reduced logs with lr, seconds, rows_per_second, data_wait_seconds.
    """

    def __init__(self, numbers: StepNumbers, world: World, *, epochs: int, steps: int, rows: int) -> None:
        super().__init__()
        self.history: list[dict[str, Any]] = []
        self._numbers = numbers
        self._world = world
        self._epochs = epochs
        self._steps = steps
        self._rows = rows
        self._epoch_began = self._sent = self._trained = 0.0
        self._epoch = 0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._epoch = epoch
        self._epoch_began = self._trained = time.monotonic()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._trained = time.monotonic()
        last = batch + 1 == self._steps
        if self._world.rank == 0 and (last or self._trained - self._sent >= PROGRESS_EVERY_S):
            self._sent = self._trained
            elapsed = max(self._trained - self._epoch_began, 1e-9)
            emit(
                {
                    "kind": "step",
                    "epoch": self._epoch,
                    "epochs": self._epochs,
                    "step": batch + 1,
                    "steps": self._steps,
                    "loss": float((logs or {}).get("loss", float("nan"))),
                    "rows_per_second": float(self._numbers.row_sum.numpy()) / elapsed,
                }
            )

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        seconds = self._trained - self._epoch_began
        slowest = max_over_ranks(np.array([seconds, float(self._numbers.wait_s.numpy())]), name="seconds")
        record = {
            "epoch": epoch,
            **{name: _plain(value) for name, value in (logs or {}).items()},
            "seconds": float(slowest[0]),
            "rows_per_second": float(self._numbers.row_sum.numpy()) / max(float(slowest[0]), 1e-9),
            "data_wait_seconds": max(0.0, float(slowest[1])),
        }
        self.history.append(record)
        if self._world.rank == 0:
            emit({"kind": "epoch", "epochs": self._epochs, **record})


def _plain(value: Any) -> float | list[Any]:
    array = np.asarray(value)
    return float(array) if array.ndim == 0 else array.tolist()
