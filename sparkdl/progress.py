"""Show a run's progress to the user: one progress bar, and one line per epoch.

Runs on the driver; fed by the events that ranks emit, or by Spark's status of a job's tasks.
"""

from __future__ import annotations

import logging
import shutil
import sys
import threading
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

__all__ = ["FIGURES", "TasksProgress", "TrainingProgress", "epoch_line"]

log = logging.getLogger(__name__)

_DRAW_SECONDS = 0.5
_TELL_SECONDS = 30

# The entries of an epoch's record beside the loss and the metrics.
FIGURES = ("epoch", "lr", "seconds", "rows_per_second", "data_wait_seconds", "allreduce_share", "gradient_norm")


def epoch_line(event: Mapping[str, Any]) -> str:
    """Format an epoch's metrics: `epoch 3/10  loss 0.412  val_loss 0.431  18.2 s  41,200 rows/s  data wait 0.3 s`."""
    metrics = {
        name: value
        for name, value in event.items()
        if isinstance(value, float) and name not in FIGURES and name not in ("kind", "epochs")
    }
    values = "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
    return (
        f"epoch {event['epoch'] + 1}/{event['epochs']}  {values}  {event['seconds']:.1f} s  "
        f"{event['rows_per_second']:,.0f} rows/s  data wait {event['data_wait_seconds']:.1f} s"
    )


class TrainingProgress:
    """Show a bar of the current epoch in a terminal or notebook, and a line for each finished epoch. A context manager.

    If the output is not a terminal, no bar is shown, and the lines go to the log, at INFO; in a program that has not
    set up logging, where nothing below WARNING would be shown, the lines go to stderr.
    """

    def __init__(self) -> None:
        self._bar: Any = None

    def __enter__(self) -> TrainingProgress:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def on_event(self, rank: int, event: Mapping[str, Any]) -> None:
        """Show a "step" or "epoch" event of a rank; other events are ignored."""
        if event.get("kind") == "step":
            self._step(event)
        elif event.get("kind") == "epoch":
            self._close()
            self._line(epoch_line(event))

    def _step(self, event: Mapping[str, Any]) -> None:
        if not _shows_bars():
            return
        if self._bar is None:
            self._bar = _bar(f"epoch {event['epoch'] + 1}/{event['epochs']}", unit="step", total=event["steps"])
        self._bar.update(event["step"] - self._bar.n)
        self._bar.set_postfix_str(f"loss {event['loss']:.4g}, {event['rows_per_second']:,.0f} rows/s")

    def _line(self, text: str) -> None:
        if not _shows_bars():
            _tell(text)
            return
        from tqdm.auto import tqdm

        tqdm.write(text, file=sys.stderr)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class TasksProgress:
    """Show a bar of the tasks of all Spark jobs that the block starts, in a terminal or notebook. A context manager.

    If the output is not a terminal (spark-submit's is not), a line is written every half minute, to the log or stderr
    as the lines of `TrainingProgress`. The title is the text before the bar.
    """

    def __init__(self, spark: SparkSession, title: str) -> None:
        self._context = spark.sparkContext
        self._title = title
        self._group = f"sparkdl-{uuid.uuid4().hex}"
        self._ended = threading.Event()
        watch = self._draw if _shows_bars() else self._tell
        self._thread = threading.Thread(target=watch, name="sparkdl-progress", daemon=True)

    def __enter__(self) -> TasksProgress:
        self._context.setJobGroup(self._group, self._title)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        for name in ("spark.jobGroup.id", "spark.job.description"):
            self._context.setLocalProperty(name, None)  # type: ignore[arg-type]

    def _draw(self) -> None:
        bar = _bar(self._title, unit="task", total=0)
        while not self._ended.wait(_DRAW_SECONDS):
            bar.total, done = self._tasks()
            bar.update(done - bar.n)
        bar.close()

    def _tell(self) -> None:
        while not self._ended.wait(_TELL_SECONDS):
            total, done = self._tasks()
            _tell(f"{self._title}: {done} of {total} tasks")

    def _tasks(self) -> tuple[int, int]:
        """Return how many tasks the jobs have so far, and how many have ended."""
        tracker = self._context.statusTracker()
        jobs = [tracker.getJobInfo(number) for number in tracker.getJobIdsForGroup(self._group)]
        numbers = {number for job in jobs if job is not None for number in job.stageIds}
        stages = [stage for stage in map(tracker.getStageInfo, numbers) if stage is not None]
        return sum(stage.numTasks for stage in stages), sum(stage.numCompletedTasks for stage in stages)


def _bar(title: str, *, unit: str, total: int) -> Any:
    from tqdm.auto import tqdm

    # Some terminals (`script`, CI) report a size of 0 x 0, and tqdm would draw nothing there.
    size = shutil.get_terminal_size(fallback=(100, 24))
    return tqdm(total=total, desc=title, unit=unit, leave=False, ncols=size.columns, nrows=size.lines)


def _shows_bars() -> bool:
    return sys.stderr.isatty() or _in_notebook()


def _in_notebook() -> bool:
    """Tell whether a notebook's kernel runs this program; libraries may have imported IPython without one."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return any(kind.__module__.partition(".")[0] == "ipykernel" for kind in type(shell).__mro__)


def _tell(text: str) -> None:
    if log.hasHandlers():
        log.info("%s", text)
    else:
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()
