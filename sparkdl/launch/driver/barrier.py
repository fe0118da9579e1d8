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
import threading
from collections.abc import Collection, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from sparkdl import storage
from sparkdl.errors import LaunchError
from sparkdl.launch.checks import versions
from sparkdl.launch.checks.preflight import is_one_process
from sparkdl.launch.driver.barrier_job import BarrierJob
from sparkdl.launch.driver.barrier_timers import cancel_timers_at_exit
from sparkdl.launch.driver.monitor import Monitor
from sparkdl.launch.driver.ranks import RanksSpec, Values
from sparkdl.launch.driver.session import active_session, addresses
from sparkdl.launch.protocol.channel import ControlServer
from sparkdl.launch.protocol.mailbox.folder import mailbox_name
from sparkdl.launch.protocol.mailbox.server import MailboxServer
from sparkdl.launch.protocol.messages import (
    MAX_BODY_BYTES,
    Call,
    Finish,
    Hello,
    Message,
    Ready,
    Stacks,
    Stop,
    Value,
    WindDown,
)
from sparkdl.launch.worker.environment import Settings, search_path
from sparkdl.launch.worker.place import TaskPlan

if TYPE_CHECKING:
    from pyspark import Broadcast
    from pyspark.sql import SparkSession

__all__ = ["BarrierRanks"]

log = logging.getLogger(__name__)

# The limit for reading the files that are in the mailbox when the job has ended: values may be large.
CATCH_UP_S = 60.0
# Ranks that returned are ready again within a second.
READY_LIMIT_S = 15.0


class BarrierRanks:
    """Run ranks as tasks of a barrier job on the active session. Implements `Ranks`.

    A warm job goes on after a call in which all ranks returned, and runs the ranks of the next call; `close` ends the
    job. A job that is not warm ends with its call.
    """

    def __init__(self, *, warm: bool = False) -> None:
        self._warm = warm
        self._spec: RanksSpec
        self._address = ""
        self._mailbox: str | None = None
        self._server: ControlServer
        self._box: MailboxServer | None = None
        self._box_life = ExitStack()
        self._life = ExitStack()
        self._session: SparkSession | None = None
        self._job: BarrierJob
        self._monitor: Monitor
        self._values: Values
        self._changed = threading.Condition()
        # The ranks that wait for a call, and the port of the call's rendezvous at rank 0.
        self._ready: dict[int, int] = {}
        self._is_called = False
        self._stop_requested = False
        self._lost: set[int] = set()

    def run_ranks(self, spec: RanksSpec, monitor: Monitor, values: Values) -> str:
        """Run the ranks to their end; their values go to `values`, their outcomes to `monitor`.

        Returns the reason why Spark's job failed, or "" where the job succeeded.

        Raises LaunchError if the ranks cannot start, do not start in time, or somebody cancelled the job.
        """
        if not self.is_running:
            self.close()
        self._spec, self._monitor, self._values = spec, monitor, values
        self._is_called = self._stop_requested = False
        if self._session is None:
            self._start(active_session())
        else:
            self._call()
        try:
            monitor.watch(self)
            if self._job.settled and self._box is not None:
                self._box.catch_up(CATCH_UP_S)
            self._tell(Finish() if monitor.complete else Stop())
            if not (self._warm and monitor.complete and self._is_ready_again()):
                self._end(monitor.lost)
        except BaseException:  # KeyboardInterrupt too: no rank may run on
            self._tell(Stop())
            self._job.cancel()
            self._release()
            raise
        return self._job_error()

    def close(self) -> None:
        """End the job, if it goes on."""
        if self._session is not None:
            self._end(self._lost)

    @property
    def is_running(self) -> bool:
        """True if the job of an earlier call goes on, and all its ranks are ready."""
        if self._session is None or self._job.has_ended or self._lost:
            return False
        return self._session.sparkContext is active_session().sparkContext

    def holds_others_up(self) -> bool:
        """Tell whether another job of the session waits for slots while this job holds some."""
        with contextlib.suppress(Exception):  # the SparkContext itself may have ended
            return self._session is not None and self._job.others_wait()
        return False

    def stop(self) -> None:
        self._tell(Stop())

    def dump_stacks(self) -> None:
        self._tell(Stacks())

    def request_stop(self) -> None:
        self._stop_requested = True
        self._tell(WindDown())

    def is_alive(self) -> bool:
        """Tell whether more messages may come; close the mailbox once every rank has connected to the socket."""
        if self._box is not None and self._server.is_complete:
            self._close_mailbox()  # no rank needs the mailbox, and on an object store every listing costs
        return not self._job.settled

    def _start(self, spark: SparkSession) -> None:
        spec, one_process = self._spec, is_one_process(str(spark.sparkContext.master))
        self._address, bind_address = addresses(spark, one_process)
        self._mailbox = None
        self._ready, self._lost = {}, set()
        key = secrets.token_bytes(32)
        if spec.log_folder is not None and not one_process:
            parent, name = posixpath.split(spec.log_folder)
            self._mailbox = storage.join(parent, mailbox_name(name))
        ends: dict[str, Any] = {
            "key": key,
            "size": spec.size,
            "on_message": self._receive,
            "on_lost": self._lose,
        }
        with ExitStack() as stack:
            self._server = stack.enter_context(ControlServer(bind_address, port=spec.launch.driver_port, **ends))
            stack.callback(self._close_mailbox)
            if self._mailbox is not None:
                self._box = self._box_life.enter_context(MailboxServer(self._mailbox, **ends))
            task = None if self._warm else stack.enter_context(_broadcast(spark, spec.task))
            self._job = BarrierJob(spark, self._plan(spark, key), task, spec.size, self._note_end)
            stack.callback(cancel_timers_at_exit, spark.sparkContext)
            self._job.start("sparkdl worker group" if self._warm else spec.description)
            self._life, self._session = stack.pop_all(), spark

    def _end(self, lost: Collection[int]) -> None:
        """Wait for the end of the job, and release what the job used."""
        try:
            if self._warm:
                self._tell(Finish())
            self._job.end(lost)
        finally:
            self._release()

    def _release(self) -> None:
        self._session = None
        self._life.close()

    def _close_mailbox(self) -> None:
        self._box_life.close()
        self._box = None

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
            start_timeout_s=launch.start_timeout_s,
            log_folder=self._spec.log_folder,
            mailbox=self._mailbox,
        )

    def _call(self) -> None:
        """Have the ranks of a warm job called, once all of them are ready."""
        with self._changed:
            if self._is_called or len(self._ready) < self._spec.size:
                return
            port, self._ready, self._is_called = self._ready[0], {}, True
        spec, task = self._spec, self._spec.task
        order = Call(rendezvous=port, size=len(task), log_folder=spec.log_folder or "", modules=list(spec.modules))
        self._tell(order)
        for start in range(0, len(task), MAX_BODY_BYTES):
            self._tell(Value(content=task[start : start + MAX_BODY_BYTES]))
        if self._stop_requested:  # before the call: no rank was there to hear it
            self._tell(WindDown())

    def _is_ready_again(self) -> bool:
        """Wait until all ranks are ready for the next call; False if they are not soon, or speak through the mailbox.

        The mailbox keeps all that was said, for ranks that read later: it is for one call.
        """
        if self._box is not None:
            return False
        with self._changed:
            self._changed.wait_for(
                lambda: self._lost or self._job.has_ended or len(self._ready) == self._spec.size, READY_LIMIT_S
            )
            return len(self._ready) == self._spec.size

    def _lose(self, rank: int) -> None:
        with self._changed:
            self._lost.add(rank)
            self._changed.notify_all()
        self._monitor.lose(rank)

    def _note_end(self) -> None:
        with self._changed:
            self._changed.notify_all()
        self._monitor.wake()

    def _receive(self, rank: int, message: Message) -> None:
        match message:
            case Ready(rendezvous=port):
                with self._changed:
                    self._ready[rank] = port
                    self._changed.notify_all()
                self._call()
            case Value(content=content):
                try:
                    self._values.add(rank, content)
                except OSError as error:
                    what = f"the driver cannot keep the value of rank {rank}: {error}"
                    way_out = "return less, or set TMPDIR to a folder with more space"
                    self._monitor.give_up(LaunchError(f"{what}; {way_out}"))
            case Hello(host=host, error=error):  # through the mailbox
                where = f"{self._address}:{self._server.port} ({error})"
                what = "rank %d on %s cannot reach the driver at %s; they speak through the folder %s"
                log.warning(what, rank, host, where, self._mailbox)
            case _:
                self._monitor.receive(rank, message)

    def _tell(self, message: Message) -> None:
        self._server.tell_all(message)
        if self._box is not None:
            self._box.tell_all(message)

    def _job_error(self) -> str:
        """Return the reason why Spark's job failed, or "". Raises LaunchError where no rank is to blame."""
        monitor = self._monitor
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


@contextlib.contextmanager
def _broadcast(spark: SparkSession, task: bytes) -> Iterator[Broadcast[bytes]]:
    shared = spark.sparkContext.broadcast(task)
    try:
        yield shared
    finally:
        with contextlib.suppress(Exception):  # the SparkContext itself may have ended
            shared.destroy()
