"""Start ranks as Databricks' HorovodRunner does, and show what they send to the driver.

`HorovodRunner` is used on the driver, `log_to_driver` inside its ranks. Both are thin wrappers around `sparkdl.run`,
which new programs call directly.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sparkdl.checks import is_whole
from sparkdl.errors import ConfigError, shown
from sparkdl.launch.checks.gpus import visible_gpus
from sparkdl.launch.checks.preflight import TASK_GPUS, whole_gpus
from sparkdl.launch.config import LaunchConfig
from sparkdl.launch.driver.console import show
from sparkdl.launch.driver.session import active_session
from sparkdl.launch.run import launch_ranks
from sparkdl.launch.worker import emit
from sparkdl.launch.world import world

__all__ = ["HorovodRunner", "log_to_driver"]

LOG_KIND = "log_to_driver"
MAX_LOG_CHARACTERS = 4000
VERBOSITIES = ("all", "log_callback_only")


@dataclass(frozen=True, slots=True, kw_only=True)
class HorovodRunner:
    """Run a function in `np` processes at once, with Horovod's environment, and return rank 0's value.

    Raises ConfigError for a value out of range.
    """

    np: int
    """Positive: tasks of the active Spark session, all at once; each sees the GPUs that its task owns. Negative: `-np`
    processes on the driver, each with one of this machine's GPUs if it has any."""

    driver_log_verbosity: str = "log_callback_only"
    """The output of Spark tasks that reaches the driver's terminal: "all" output of all ranks, or "log_callback_only",
    the lines that ranks send by `log_to_driver`. The output of processes on the driver is always shown."""

    def __post_init__(self) -> None:
        if not is_whole(self.np):
            raise ConfigError(f"np={shown(self.np)} must be a whole number")
        if self.np == 0:
            raise ConfigError(
                "np=0, all task slots, is not supported; write their number, such as "
                "HorovodRunner(np=spark.sparkContext.defaultParallelism)"
            )
        if self.driver_log_verbosity not in VERBOSITIES:
            allowed = " or ".join(map(repr, VERBOSITIES))
            raise ConfigError(f"driver_log_verbosity={shown(self.driver_log_verbosity)} must be {allowed}")

    def run(self, main: Callable[..., Any], **kwargs: Any) -> Any:
        """Call `main(**kwargs)` in every process, and return the value of rank 0.

        Raises:
            ConfigError: the function and its arguments do not pickle, or take more than 10 MB.
            LaunchError: the processes could not be started.
            WorkerError: a process failed; the error carries rank, host and traceback.
        """
        if not callable(main):
            raise ConfigError(f"main={shown(main)} is not callable")

        # With the name of main, which errors show.
        @functools.wraps(main)
        def call(**kwargs: Any) -> Any:
            value = main(**kwargs)
            # The values of other ranks are not used, and need not pickle.
            return value if world().rank == 0 else None

        return launch_ranks(call, (), kwargs, launch=self._launch(), description="HorovodRunner", on_event=_show)[0]

    def _launch(self) -> LaunchConfig:
        if self.np < 0:
            gpus = 1 if visible_gpus(os.environ) else 0
            return LaunchConfig(num_workers=-self.np, local=True, gpus_per_worker=gpus, log="all")
        amount = active_session().sparkContext.getConf().get(TASK_GPUS, "0")
        log = "all" if self.driver_log_verbosity == "all" else "errors"
        return LaunchConfig(num_workers=self.np, gpus_per_worker=whole_gpus(amount), log=log)


def log_to_driver(message: str) -> None:
    """Show one line, of at most 4000 characters, on the driver's terminal: from a rank of `HorovodRunner`, or here."""
    text = " ".join(str(message).splitlines())[:MAX_LOG_CHARACTERS]
    if emit.is_connected():
        emit.emit({"kind": LOG_KIND, "text": text})
    else:
        show(text)


def _show(rank: int, event: Mapping[str, Any]) -> None:
    if event.get("kind") == LOG_KIND:
        show(event["text"])
