"""Run the ranks as the tasks of one Spark barrier job.

Runs on the driver. The job itself runs in a thread, so that the driver can watch, stop and cancel it.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import sys
import time
import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, cast

from sparkdl.errors import LaunchError
from sparkdl.launch.channel import ControlServer
from sparkdl.launch.environment import Settings, search_path
from sparkdl.launch.monitor import Monitor
from sparkdl.launch.preflight import check_session, is_one_process
from sparkdl.launch.task import LOOPBACK, RESULT_SCHEMA, TaskPlan, run_rank

if TYPE_CHECKING:
    from pyspark import Broadcast
    from pyspark.sql import SparkSession

__all__ = ["active_session", "run_barrier", "task_cpus"]

# After the job's own end its tasks' last messages may still be under way.
SETTLE_S = 2.0
# Tasks that were stopped end within three seconds; a job that does not is cancelled.
END_LIMIT_S = 15.0


def active_session() -> SparkSession:
    """The session to run on. Raises LaunchError if there is none, or one without a SparkContext."""
    from pyspark.sql import SparkSession

    try:
        session = SparkSession.active()
    except RuntimeError:
        session = None
    if session is None:
        raise LaunchError("there is no active SparkSession; start one, or run on this machine with local=True")
    if not hasattr(session, "_jsparkSession"):
        raise LaunchError("ranks cannot be started through Spark Connect; run the driver in the cluster or local=True")
    return session


def task_cpus(spark: SparkSession) -> int:
    """The cores of one task."""
    return int(spark.sparkContext.getConf().get("spark.task.cpus", "1"))


class _Job:
    """The barrier job, run by a thread of its own; whoever starts it ends or cancels it."""

    def __init__(
        self, spark: SparkSession, plan: TaskPlan, task: Broadcast[bytes], size: int, monitor: Monitor
    ) -> None:
        self._spark = spark
        self._plan = plan
        self._task = task
        self._size = size
        self._monitor = monitor
        self._tag = f"sparkdl-{uuid.uuid4().hex}"
        self._ended: float | None = None
        self.error: Exception | None = None
        self.results: list[bytes] = []

    def start(self, description: str) -> None:
        """Submit it."""
        from pyspark import InheritableThread

        self._thread = InheritableThread(target=self._run, args=(description,))
        self._thread.daemon = True
        self._thread.start()

    @property
    def settled(self) -> bool:
        """Whether it ended, and no more is to be heard of its tasks."""
        return self._ended is not None and time.monotonic() > self._ended + SETTLE_S

    def end(self) -> None:
        """Wait for its end; cancel it if its tasks do not end by themselves."""
        self._thread.join(END_LIMIT_S)
        if self._thread.is_alive():
            self.cancel()

    def cancel(self) -> None:
        """End it and its tasks now."""
        with contextlib.suppress(Exception):  # the SparkContext itself may have ended
            self._spark.sparkContext.cancelJobsWithTag(self._tag)
        self._thread.join(END_LIMIT_S)

    def _run(self, description: str) -> None:
        try:
            with self._described(description):
                self.results = self._collect()
        except Exception as error:  # told to the thread that watches
            self.error = error
        self._ended = time.monotonic()
        self._monitor.wake()

    @contextlib.contextmanager
    def _described(self, description: str) -> Iterator[None]:
        context = self._spark.sparkContext
        # Without pinned threads these properties are the whole driver's.
        before = context.getLocalProperty("spark.job.description")
        context.setJobDescription(f"{description}: {self._size} ranks")
        context.addJobTag(self._tag)
        try:
            yield
        finally:
            context.removeJobTag(self._tag)
            context.setLocalProperty("spark.job.description", cast(str, before))  # null removes it

    def _collect(self) -> list[bytes]:
        plan, task = self._plan, self._task  # the closure must not hold the session

        def rank_task(batches: Iterable[Any]) -> Iterable[Any]:
            for _ in batches:  # Spark reuses a Python worker only if it has read all of its input
                pass
            yield from run_rank(plan, task)

        ranks = self._spark.range(self._size, numPartitions=self._size)
        rows = ranks.mapInArrow(rank_task, RESULT_SCHEMA, barrier=True).collect()
        pieces: dict[int, list[bytes]] = defaultdict(list)
        for row in sorted(rows, key=lambda row: (row["rank"], row["piece"])):
            pieces[row["rank"]].append(bytes(row["content"]))
        return [b"".join(pieces[rank]) for rank in range(self._size)]


def run_barrier(
    task: bytes, size: int, settings: Settings, monitor: Monitor, start_timeout_s: float, description: str
) -> list[bytes]:
    """Run the pickled task on every rank; each rank's pickled value in rank order, nothing of it where one failed.

    Raises LaunchError if the ranks cannot start, or do not in time.
    """
    spark = active_session()
    check_session(spark, size, start_timeout_s)
    context = spark.sparkContext
    conf = context.getConf()
    one_process = is_one_process(str(context.master))
    address = LOOPBACK if one_process else conf.get("spark.driver.host", LOOPBACK)
    bind_address = LOOPBACK if one_process else conf.get("spark.driver.bindAddress", address)
    key = secrets.token_bytes(32)
    server = ControlServer(bind_address, key=key, size=size, on_message=monitor.receive, on_lost=monitor.lose)
    with server, _broadcast(spark, task) as shared:
        plan = TaskPlan(
            control=(address, server.port),
            key=key,
            settings=settings,
            one_process=one_process,
            driver_path=search_path(sys.path, folder=os.getcwd()) if one_process else (),
        )
        job = _Job(spark, plan, shared, size, monitor)
        _follow(job, server, monitor, start_timeout_s, description)
        if not job.results and monitor.cause is None:
            raise LaunchError(f"the Spark job of {size} ranks failed: {_reason(job.error)}") from job.error
        return job.results


def _follow(job: _Job, server: ControlServer, monitor: Monitor, start_timeout_s: float, description: str) -> None:
    def stop() -> None:
        server.tell_all({"type": "stop"})

    job.start(description)
    try:
        monitor.watch(stop=stop, alive=lambda: not job.settled, start_timeout_s=start_timeout_s)
        server.tell_all({"type": "finish" if monitor.complete else "stop"})
        job.end()
    except BaseException:  # KeyboardInterrupt too: nothing may run on
        stop()
        job.cancel()
        raise


@contextlib.contextmanager
def _broadcast(spark: SparkSession, task: bytes) -> Iterator[Broadcast[bytes]]:
    shared = spark.sparkContext.broadcast(task)
    try:
        yield shared
    finally:
        with contextlib.suppress(Exception):  # the SparkContext itself may have ended
            shared.destroy()


def _reason(error: BaseException | None) -> str:
    """The line of a Spark error that says most: the Python error of a worker, else the first line."""
    lines = str(error).strip().splitlines() if error else ["it returned nothing"]
    told = [line for line in lines if re.match(r"[A-Za-z_]\w*(Error|Exception): .", line)]
    return (told or lines or [type(error).__name__])[0]
