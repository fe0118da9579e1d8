"""Run the ranks as the tasks of one Spark barrier job.

Runs on the driver. The job itself runs in a thread, so that the driver can watch, stop and cancel it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import posixpath
import re
import secrets
import sys
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from sparkdl import storage
from sparkdl.config import LaunchConfig
from sparkdl.errors import LaunchError, SparkDLError
from sparkdl.launch import versions
from sparkdl.launch.channel import ControlServer, OnMessage
from sparkdl.launch.environment import Settings, search_path
from sparkdl.launch.mailbox_folder import mailbox_name
from sparkdl.launch.mailbox_server import MailboxServer
from sparkdl.launch.monitor import Monitor
from sparkdl.launch.preflight import check_session, is_one_process
from sparkdl.launch.task import LOOPBACK, TaskPlan, run_rank
from sparkdl.launch.values import Values
from sparkdl.spark_errors import own_error_in

if TYPE_CHECKING:
    from pyspark import Broadcast
    from pyspark.sql import SparkSession

__all__ = ["active_session", "available_workers", "run_barrier", "task_cpus"]

log = logging.getLogger(__name__)

# After the job's own end its tasks' last messages may still be under way.
SETTLE_S = 2.0
# For what lies in the mailbox when the job has ended: values may be large.
CATCH_UP_S = 60.0
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
        self._cancelled = False
        self._error: Exception | None = None

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

    @property
    def reason(self) -> str:
        """Why it failed, in one line; nothing if it ended well."""
        return _reason(self._error) if self._error else ""

    @property
    def own_error(self) -> SparkDLError | None:
        """What a task itself raised, if it is an error of ours."""
        return own_error_in(str(self._error)) if self._error else None

    @property
    def cancelled_by_others(self) -> bool:
        """Whether somebody else cancelled it."""
        return not self._cancelled and "cancelled" in str(self._error)

    def end(self) -> None:
        """Wait for its end; cancel it if its tasks do not end by themselves."""
        self._thread.join(END_LIMIT_S)
        if self._thread.is_alive():
            self.cancel()

    def cancel(self) -> None:
        """End it and its tasks now."""
        self._cancelled = True
        with contextlib.suppress(Exception):  # the SparkContext itself may have ended
            self._spark.sparkContext.cancelJobsWithTag(self._tag)
        self._thread.join(END_LIMIT_S)

    def _run(self, description: str) -> None:
        try:
            with self._described(description):
                self._collect()
        except Exception as error:  # told to the thread that watches
            self._error = error
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

    def _collect(self) -> None:
        plan, task = self._plan, self._task  # the closure must not hold the session

        def rank_task(batches: Iterable[Any]) -> Iterable[Any]:
            for _ in batches:  # Spark reuses a Python worker only if it has read all of its input
                pass
            run_rank(plan, task)
            return iter(())

        ranks = self._spark.range(self._size, numPartitions=self._size)
        ranks.mapInArrow(rank_task, "rank int", barrier=True).collect()


def available_workers(launch: LaunchConfig) -> int:
    """The ranks to start. Raises LaunchError if the session cannot run them."""
    return check_session(
        active_session(),
        num_workers=launch.num_workers,
        start_timeout_s=launch.start_timeout_s,
        min_workers=launch.min_workers,
        gpus_per_worker=launch.gpus_per_worker,
        allow_unencrypted=launch.allow_unencrypted,
    )


def run_barrier(
    task: bytes,
    size: int,
    launch: LaunchConfig,
    settings: Settings,
    monitor: Monitor,
    values: Values,
    description: str,
    log_folder: str | None,
) -> str:
    """Run the pickled task on every rank; what the ranks return goes to `values`, how they ended to `monitor`.

    Returns why Spark's job failed, or nothing where it ended well.

    Raises LaunchError if the ranks cannot start, do not in time, or somebody cancelled the job.
    """
    spark = active_session()
    master = str(spark.sparkContext.master)
    one_process = is_one_process(master)
    address, bind_address = _addresses(spark, one_process)
    key = secrets.token_bytes(32)
    mailbox = None
    if log_folder is not None and not one_process:
        parent, name = posixpath.split(log_folder)
        mailbox = storage.join(parent, mailbox_name(name))

    def on_message(rank: int, message: dict[str, Any], body: bytes) -> None:
        if message["type"] == "value":
            values.add(rank, body)
        else:
            monitor.receive(rank, message)

    with ExitStack() as stack:
        server = ControlServer(bind_address, key=key, size=size, on_message=on_message, on_lost=monitor.lose)
        stack.enter_context(server)
        box, box_life = None, stack.enter_context(ExitStack())
        if mailbox is not None:
            hear = partial(_hear_mailbox, on_message, f"{address}:{server.port}", mailbox)
            box = MailboxServer(mailbox, key=key, size=size, on_message=hear, on_lost=monitor.lose)
            box_life.enter_context(box)
        plan = TaskPlan(
            control=(address, server.port),
            key=key,
            settings=settings,
            one_process=one_process,
            driver_path=search_path(sys.path, folder=os.getcwd()) if one_process else (),
            gpus_per_worker=launch.gpus_per_worker,
            gpus_of_hosts=master.startswith(("spark://", "local-cluster[")),
            versions=versions.installed(),
            log_folder=log_folder,
            mailbox=mailbox,
        )
        job = _Job(spark, plan, stack.enter_context(_broadcast(spark, task)), size, monitor)
        _follow(job, server, box, box_life, monitor, description)
    if monitor.complete:
        return ""
    if job.cancelled_by_others:
        raise LaunchError(f"the Spark job of {size} ranks was cancelled: {job.reason}")
    own_error = job.own_error
    if isinstance(own_error, LaunchError):
        raise own_error  # a task's, before it could speak with the driver
    if monitor.cause is None and monitor.stall is None:
        raise LaunchError(f"the Spark job of {size} ranks failed: {job.reason or 'its tasks ended early'}")
    return job.reason


def _addresses(spark: SparkSession, one_process: bool) -> tuple[str, str]:
    """The address of the driver's control channel for the tasks, and the one it listens on."""
    if one_process:
        return LOOPBACK, LOOPBACK
    conf = spark.sparkContext.getConf()
    address = conf.get("spark.driver.host", LOOPBACK)
    return address, conf.get("spark.driver.bindAddress", address)


def _hear_mailbox(
    on_message: OnMessage, address: str, mailbox: str, rank: int, message: dict[str, Any], body: bytes
) -> None:
    if message["type"] == "hello":
        what = f"rank {rank} on {message['host']} cannot reach the driver at {address} ({message['error']})"
        log.warning("%s; they speak through the folder %s", what, mailbox)
    on_message(rank, message, body)


def _follow(
    job: _Job,
    server: ControlServer,
    box: MailboxServer | None,
    box_life: ExitStack,
    monitor: Monitor,
    description: str,
) -> None:
    def alive() -> bool:
        nonlocal box
        if box is not None and server.is_complete:
            box_life.close()  # nobody needs it, and on an object store every look is paid for
            box = None
        return not job.settled

    def tell(word: str) -> None:
        server.tell_all({"type": word})
        if box is not None:
            box.tell_all({"type": word})

    job.start(description)
    try:
        monitor.watch(stop=partial(tell, "stop"), ask_stacks=partial(tell, "stacks"), alive=alive)
        if job.settled and box is not None:
            box.catch_up(CATCH_UP_S)
        tell("finish" if monitor.complete else "stop")
        job.end()
    except BaseException:  # KeyboardInterrupt too: nothing may run on
        tell("stop")
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


# What a failed job's error says that helps, from the most telling on: a Python error, what became of an executor or a
# Python worker. Java's own frames and wrappers around it do not.
_TELLING = (
    r"(?!org\.|java\.|py4j\.)[A-Za-z_][\w.]*(?:Error|Exception): .+",
    r"ExecutorLostFailure .+",
    r"Python worker exited unexpectedly.*",
    r"Job (?:\d+ cancelled|aborted).+",
)


def _reason(error: BaseException) -> str:
    """The line of a Spark error that says most, in our words where the executors lack what the driver has."""
    text = str(error).strip()
    found = (re.search(rf"^(?:.*?Exception: )?(?:\[\w+\] )?({telling})$", text, re.MULTILINE) for telling in _TELLING)
    told = next((match[1] for match in found if match), None)
    return versions.explain_worker_error(text) or told or (text.splitlines() or [type(error).__name__])[0]
