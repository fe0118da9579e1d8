"""Run the ranks as the tasks of one Spark barrier job.

Runs on the driver, which watches the job, stops and cancels it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import posixpath
import secrets
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

from sparkdl import storage
from sparkdl.errors import LaunchError
from sparkdl.launch.checks import versions
from sparkdl.launch.checks.preflight import check_session, is_one_process
from sparkdl.launch.config import LaunchConfig
from sparkdl.launch.driver.barrier_job import BarrierJob
from sparkdl.launch.driver.barrier_timers import cancel_timers_at_exit
from sparkdl.launch.driver.monitor import Monitor
from sparkdl.launch.driver.results import Values
from sparkdl.launch.protocol.channel import ControlServer, OnMessage
from sparkdl.launch.protocol.mailbox.folder import mailbox_name
from sparkdl.launch.protocol.mailbox.server import MailboxServer
from sparkdl.launch.worker.environment import Settings, search_path
from sparkdl.launch.worker.task import LOOPBACK, TaskPlan

if TYPE_CHECKING:
    from pyspark import Broadcast
    from pyspark.sql import SparkSession

__all__ = ["active_session", "available_workers", "run_barrier", "task_cpus"]

log = logging.getLogger(__name__)

# For what lies in the mailbox when the job has ended: values may be large.
CATCH_UP_S = 60.0


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
            try:
                values.add(rank, body)
            except OSError as error:
                what = f"the driver cannot keep the value of rank {rank}: {error}"
                monitor.give_up(LaunchError(f"{what}; return less, or set TMPDIR to a folder with more space"))
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
        job = BarrierJob(spark, plan, stack.enter_context(_broadcast(spark, task)), size, monitor)
        stack.callback(cancel_timers_at_exit, spark.sparkContext)
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
    job: BarrierJob,
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

    try:
        job.start(description)
        monitor.watch(
            stop=partial(tell, "stop"),
            ask_stacks=partial(tell, "stacks"),
            wind_down=partial(tell, "wind_down"),
            alive=alive,
        )
        if job.settled and box is not None:
            box.catch_up(CATCH_UP_S)
        tell("finish" if monitor.complete else "stop")
        job.end(monitor.lost)
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
