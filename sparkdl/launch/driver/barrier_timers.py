"""Let the Java process of a driver end where timers of Spark's barrier stages would keep it alive.

Spark 3.5 has two timers whose threads are not daemons: in local mode the one of `barrier()` calls, which nobody cancels
(SPARK-46895), and before 3.5.6 the one of the scheduler (SPARK-51450). Under spark-submit the program then ends with
success and its Java process never ends. Spark 4 has neither.
"""

from __future__ import annotations

import atexit
import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from sparkdl.launch.checks.preflight import is_one_process

if TYPE_CHECKING:
    from pyspark import SparkContext

__all__ = ["cancel_timers_at_exit"]

# The timers by application. A cancelled timer takes no further task, so all are cancelled only when Python exits.
_timers: dict[str, list[Any]] = {}


def cancel_timers_at_exit(context: SparkContext) -> None:
    """Have the timers of a context that ran a barrier stage cancelled when Python exits.

    Does nothing on Spark 4, for a context that was stopped, and where Python started the Java process: that process
    ends with Python anyway.
    """
    if "PYSPARK_GATEWAY_PORT" not in os.environ or context._jsc is None or not context.version.startswith("3."):
        return
    application = str(context.applicationId)
    if application in _timers:
        return
    if not _timers:
        atexit.register(_cancel)
    _timers[application] = list(_timers_of(context))


def _timers_of(context: SparkContext) -> Iterator[Any]:
    coordinator = context._jsc.sc().taskScheduler().barrierCoordinator()
    if coordinator is not None:
        yield _timer_of(coordinator, "BarrierCoordinator")
    if is_one_process(str(context.master)):
        spark: Any = context._jvm.org.apache.spark  # type: ignore[union-attr]
        yield _timer_of(getattr(getattr(spark, "BarrierTaskContext$"), "MODULE$"), "BarrierTaskContext")


def _timer_of(owner: Any, name: str) -> Any:
    """Return the private timer of a Scala object, by the name that Scala gives the accessor."""
    return getattr(owner, f"org$apache$spark${name}$$timer")()


def _cancel() -> None:
    with contextlib.suppress(Exception):  # the Java process may be gone
        for timers in _timers.values():
            for timer in timers:
                timer.cancel()
