"""Record each epoch: the history, how evenly the ranks worked, and the progress that the driver shows.

Runs in rank processes, as a callback after the user's.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from sparkdl.launch.worker.emit import emit
from sparkdl.launch.world import World
from sparkdl.train.exact.collective import gather_over_ranks, gather_text
from sparkdl.train.exact.counters import StepCounters
from sparkdl.train.exact.findings import Inexact
from sparkdl.train.run.record import Recorded

__all__ = ["EpochRecorder"]

# The bar on the driver's terminal moves this often at most.
PROGRESS_EVERY_S = 0.2
# The durations of an epoch, recorded over all ranks and for each rank.
_SECONDS = ("seconds", "data_wait_seconds", "allreduce_seconds")


class EpochRecorder(keras.callbacks.Callback):  # type: ignore[misc]
    """Add every epoch to the run's record, and send progress to the driver.

    Attributes:
        recorded: the record, the same on every rank.
        inexact: the names of the losses, metrics and layers that are computed per worker, as found on this rank, or
            were in the epochs before.
    """

    def __init__(self, numbers: StepCounters, world: World, recorded: Recorded, *, epochs: int, steps: int) -> None:
        super().__init__()
        self.recorded = recorded
        # A run that goes on was trained by what its epochs before are marked with, whatever trains it from here on.
        marked = (name for record in recorded.history for name in record.get("per_worker", ()))
        self.inexact: list[str] = list(dict.fromkeys(marked))
        self._numbers = numbers
        self._world = world
        self._epochs = epochs
        self._steps = steps
        self._hosts: list[str] = []
        self._epoch = self._first_step = 0
        self._began = self._sent = self._trained = 0.0
        # The durations of the epoch before this launch.
        self._before = np.zeros(len(_SECONDS))

    def mark(self, found: Sequence[Inexact]) -> None:
        """Mark the epochs from now on, and the model, with the names of the parts that are computed per worker."""
        self.inexact = list(dict.fromkeys([*self.inexact, *(one.what for one in found)]))

    def on_train_begin(self, logs: Any = None) -> None:
        self._hosts = gather_text(self._world.host, name="hosts")

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._epoch, self._first_step = epoch, 0
        self._before = np.zeros(len(_SECONDS))
        self._began = self._trained = time.monotonic()

    def go_on(self, step: int, seconds: Mapping[str, float]) -> None:
        """Continue an interrupted epoch at a step, with the durations that `seconds()` returned there."""
        self._first_step = step
        self._before = np.array([seconds[name] for name in _SECONDS])

    def seconds(self) -> dict[str, float]:
        """Return the durations of the epoch so far, in seconds, the same on every rank. A collective operation.

        They are: the training time of the slowest rank, the longest wait for data of a rank, and the mean over ranks
        of the time in the reduction of gradients.
        """
        return self._seconds(self._of_ranks())

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._trained = time.monotonic()
        last = batch + 1 == self._steps
        if self._world.rank == 0 and (last or self._trained - self._sent >= PROGRESS_EVERY_S):
            self._sent = self._trained
            elapsed = self._trained - self._began + float(self._before[0])
            emit(
                {
                    "kind": "step",
                    "epoch": self._epoch,
                    "epochs": self._epochs,
                    "step": batch + 1,
                    "steps": self._steps,
                    "loss": float((logs or {}).get("loss", float("nan"))),
                    "rows_per_second": self._numbers.sums().global_rows / max(elapsed, 1e-9),
                }
            )

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        of_ranks, sums = self._of_ranks(), self._numbers.sums()
        seconds = self._seconds(of_ranks)
        took = max(seconds["seconds"], 1e-9)
        own = {
            "allreduce_share": min(1.0, seconds["allreduce_seconds"] / took),
            **({"gradient_norm": sums.norm / sums.norms} if sums.norms else {}),
        }
        metrics = {name: _plain(value) for name, value in (logs or {}).items()}
        record = {
            "epoch": epoch,
            **metrics,
            "seconds": seconds["seconds"],
            "rows_per_second": sums.global_rows / took,
            "data_wait_seconds": seconds["data_wait_seconds"],
            # A metric of the user's may have such a name.
            **{name: value for name, value in own.items() if name not in metrics},
            **({"per_worker": self.inexact} if self.inexact else {}),
        }
        self.recorded.history.append(record)
        self.recorded.ranks.append(
            {
                "epoch": epoch,
                "first_step": self._first_step,
                "hosts": self._hosts,
                "rows": of_ranks[:, 0].astype(int).tolist(),
                **{name: of_ranks[:, 1 + index].round(6).tolist() for index, name in enumerate(_SECONDS)},
            }
        )
        if self._world.rank == 0:
            emit({"kind": "epoch", "epochs": self._epochs, **record})

    def _of_ranks(self) -> np.ndarray:
        """Gather of every rank: rows, seconds, seconds of waiting for data, of reduction. float64 ``(ranks, 4)``."""
        sums = self._numbers.sums()
        own = [sums.rows, self._trained - self._began, sums.wait_s, sums.reduce_s]
        # TensorFlow's clock may be set back, which would give negative durations.
        return np.maximum(gather_over_ranks(np.array(own), name="epoch"), 0.0)

    def _seconds(self, of_ranks: np.ndarray) -> dict[str, float]:
        _, seconds, wait, reduce = of_ranks.T
        total = self._before + np.array([seconds.max(), wait.max(), reduce.mean()])
        return dict(zip(_SECONDS, total.tolist(), strict=True))


def _plain(value: Any) -> float | list[Any]:
    array = np.asarray(value)
    return float(array) if array.ndim == 0 else array.tolist()
