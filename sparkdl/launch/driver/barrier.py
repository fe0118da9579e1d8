"""Run the ranks as the tasks of one Spark barrier job.

Runs on the driver, which watches the job, and stops or cancels it.
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
from typing import TYPE_CHECKING

from sparkdl import storage
from sparkdl.errors import LaunchError
from sparkdl.launch.checks import versions
from sparkdl.launch.checks.preflight import check_session, is_one_process
from sparkdl.launch.config import LaunchConfig
from sparkdl.launch.driver.barrier_job import BarrierJob
from sparkdl.launch.driver.barrier_timers import cancel_timers_at_exit
from sparkdl.launch.driver.monitor import Monitor
from sparkdl.launch.driver.ranks import RanksSpec, Values
from sparkdl.launch.protocol.channel import ControlServer
from sparkdl.launch.protocol.mailbox.folder import mailbox_name
from sparkdl.launch.protocol.mailbox.server import MailboxServer
from sparkdl.launch.protocol.messages import Finish, Hello, Message, Stacks, Stop, Value, WindDown
from sparkdl.launch.worker.environment import Settings, search_path
from sparkdl.launch.worker.task import LOOPBACK, TaskPlan

if TYPE_CHECKING:
    from pyspark import Broadcast
    from pyspark.sql import SparkSession

__all__ = ["BarrierRanks", "active_session", "available_workers"]

log = logging.getLogger(__name__)

# The limit for reading the files that are in the mailbox when the job has ended: values may be large.
CATCH_UP_S = 60.0


def active_session() -> SparkSession:
    """Return the active session. Raises LaunchError without an active session, or if it has no SparkContext."""
    from pyspark.sql import SparkSession

    try:
        session = SparkSession.active()
    except RuntimeError:
        session = None
    if session is None:
        raise LaunchError("no SparkSession is active; start one, or run on this machine with local=True")
    if not hasattr(session, "_jsparkSession"):
        raise LaunchError("ranks cannot be started through Spark Connect; run the driver in the cluster or local=True")
    return session


def available_workers(launch: LaunchConfig) -> int:
    """Return the number of ranks to start. Raises LaunchError if the session cannot run them."""
    return check_session(
        active_session(),
        num_workers=launch.num_workers,
        start_timeout_s=launch.start_timeout_s,
        min_workers=launch.min_workers,
        gpus_per_worker=launch.gpus_per_worker,
        allow_unencrypted=launch.allow_unencrypted,
    )


class BarrierRanks:
    """Run ranks as tasks of a barrier job on the active session. Implements `Ranks`."""

    def __init__(self, spec: RanksSpec) -> None:
        self._spec = spec
        self._address = ""
        self._mailbox: str | None = None
        self._server: ControlServer
        self._box: MailboxServer | None = None
        self._box_life = ExitStack()
        self._job: BarrierJob

    def run(self, monitor: Monitor, values: Values) -> str:
        """Run the ranks to their end; their values go to `values`, their outcomes to `monitor`.

        Returns the reason why Spark's job failed, or "" where the job succeeded.

        Raises LaunchError if the ranks cannot start, do not start in time, or somebody cancelled the job.
        """
        spec, spark = self._spec, active_session()
        one_process = is_one_process(str(spark.sparkContext.master))
        self._address, bind_address = _addresses(spark, one_process)
        key = secrets.token_bytes(32)
        if spec.log_folder is not None and not one_process:
            parent, name = posixpath.split(spec.log_folder)
            self._mailbox = storage.join(parent, mailbox_name(name))
        receive = partial(self._receive, monitor, values)
        with ExitStack() as stack:
            self._server = ControlServer(
                bind_address,
                port=spec.launch.driver_port,
                key=key,
                size=spec.size,
                on_message=receive,
                on_lost=monitor.lose,
            )
            stack.enter_context(self._server)
            stack.enter_context(self._box_life)
            if self._mailbox is not None:
                box = MailboxServer(self._mailbox, key=key, size=spec.size, on_message=receive, on_lost=monitor.lose)
                self._box = self._box_life.enter_context(box)
            plan = self._plan(spark, key)
            task = stack.enter_context(_broadcast(spark, spec.task))
            self._job = BarrierJob(spark, plan, task, spec.size, monitor)
            stack.callback(cancel_timers_at_exit, spark.sparkContext)
            self._follow(monitor)
        return self._job_error(monitor)

    def stop(self) -> None:
        self._tell(Stop())

    def dump_stacks(self) -> None:
        self._tell(Stacks())

    def request_stop(self) -> None:
        self._tell(WindDown())

    def is_alive(self) -> bool:
        """Tell whether more messages may come; close the mailbox once every rank has connected to the socket."""
        if self._box is not None and self._server.is_complete:
            self._box_life.close()  # no rank needs the mailbox, and on an object store every listing costs
            self._box = None
        return not self._job.settled

    def _plan(self, spark: SparkSession, key: bytes) -> TaskPlan:
        master, launch = str(spark.sparkContext.master), self._spec.launch
        one_process = is_one_process(master)
        cores = int(spark.sparkContext.getConf().get("spark.task.cpus", "1"))
        return TaskPlan(
            control=(self._address, self._server.port),
            key=key,
            settings=Settings.of(launch, cores=cores),
            one_process=one_process,
            driver_path=search_path(sys.path, folder=os.getcwd()) if one_process else (),
            gpus_per_worker=launch.gpus_per_worker,
            gpus_of_hosts=master.startswith(("spark://", "local-cluster[")),
            versions=versions.installed(),
            log_folder=self._spec.log_folder,
            mailbox=self._mailbox,
        )

    def _follow(self, monitor: Monitor) -> None:
        try:
            self._job.start(self._spec.description)
            monitor.watch(self)
            if self._job.settled and self._box is not None:
                self._box.catch_up(CATCH_UP_S)
            self._tell(Finish() if monitor.complete else Stop())
            self._job.end(monitor.lost)
        except BaseException:  # KeyboardInterrupt too: no rank may run on
            self._tell(Stop())
            self._job.cancel()
            raise

    def _receive(self, monitor: Monitor, values: Values, rank: int, message: Message) -> None:
        match message:
            case Value(content=content):
                try:
                    values.add(rank, content)
                except OSError as error:
                    what = f"the driver cannot keep the value of rank {rank}: {error}"
                    monitor.give_up(LaunchError(f"{what}; return less, or set TMPDIR to a folder with more space"))
            case Hello(host=host, error=error):  # through the mailbox
                where = f"{self._address}:{self._server.port} ({error})"
                what = "rank %d on %s cannot reach the driver at %s; they speak through the folder %s"
                log.warning(what, rank, host, where, self._mailbox)
            case _:
                monitor.receive(rank, message)

    def _tell(self, message: Message) -> None:
        self._server.tell_all(message)
        if self._box is not None:
            self._box.tell_all(message)

    def _job_error(self, monitor: Monitor) -> str:
        """Return the reason why Spark's job failed, or "". Raises LaunchError where no rank is to blame."""
        if monitor.complete:
            return ""
        job, size = self._job, self._spec.size
        if job.cancelled_by_others:
            raise LaunchError(f"the Spark job of {size} ranks was cancelled: {job.reason}")
        own_error = job.own_error
        if isinstance(own_error, LaunchError):
            raise own_error  # raised by a task before it could reach the driver
        if monitor.cause is None and monitor.stall is None:
            raise LaunchError(f"the Spark job of {size} ranks failed: {job.reason or 'its tasks ended early'}")
        return job.reason


def _addresses(spark: SparkSession, one_process: bool) -> tuple[str, str]:
    """Return the address of the driver's control channel for the tasks, and the address that the driver listens on."""
    if one_process:
        return LOOPBACK, LOOPBACK
    conf = spark.sparkContext.getConf()
    address = conf.get("spark.driver.host", LOOPBACK)
    return address, conf.get("spark.driver.bindAddress", address)


@contextlib.contextmanager
def _broadcast(spark: SparkSession, task: bytes) -> Iterator[Broadcast[bytes]]:
    shared = spark.sparkContext.broadcast(task)
    try:
        yield shared
    finally:
        with contextlib.suppress(Exception):  # the SparkContext itself may have ended
            shared.destroy()
