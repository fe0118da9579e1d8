"""Start, end and cancel the Spark barrier job whose tasks are the ranks, and say why the job failed.

Runs on the driver. The job itself runs in a thread, so that the driver can watch it.
"""

from __future__ import annotations

import contextlib
import logging
import pickle
import re
import time
import uuid
from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING, Any, cast

from sparkdl.errors import SparkDLError
from sparkdl.launch.worker.place import TaskPlan
from sparkdl.spark.errors import explained, own_error_in

if TYPE_CHECKING:
    from pyspark import Broadcast
    from pyspark.sql import SparkSession

__all__ = ["BarrierJob"]

log = logging.getLogger(__name__)

# After the end of the job its tasks' last messages may still be under way.
SETTLE_S = 2.0
# Tasks that were stopped end within three seconds; a job that is longer than this in ending is cancelled.
END_LIMIT_S = 15.0
# Spark ends the job of an executor that died within a second; a death that Spark has not noticed within this time it
# notices much later.
LOST_LIMIT_S = 3.0


class BarrierJob:
    """Run the barrier job in a separate thread; whoever starts the job ends or cancels it.

    `on_end` is called in that thread once the job has ended.
    """

    def __init__(
        self,
        spark: SparkSession,
        plan: TaskPlan,
        task: Broadcast[bytes] | None,
        size: int,
        on_end: Callable[[], None],
    ) -> None:
        self._spark = spark
        self._plan = plan
        self._task = task
        self._size = size
        self._on_end = on_end
        self._tag = f"sparkdl-{uuid.uuid4().hex}"
        self._ended: float | None = None
        self._cancelled = False
        self._error: Exception | None = None

    def start(self, description: str) -> None:
        """Submit the job."""
        from pyspark import InheritableThread

        self._thread = InheritableThread(target=self._run, args=(description,))
        self._thread.daemon = True
        self._thread.start()

    @property
    def has_ended(self) -> bool:
        """True once the job has ended."""
        return self._ended is not None

    @property
    def settled(self) -> bool:
        """True once the job has ended and no more messages of its tasks will come."""
        return self._ended is not None and time.monotonic() > self._ended + SETTLE_S

    @property
    def reason(self) -> str:
        """The reason why the job failed, in one line; "" if it succeeded or was cancelled here."""
        return _reason(self._error) if self._error and not self._cancelled else ""

    @property
    def own_error(self) -> SparkDLError | None:
        """The error that a task raised, if it is one of the library's errors, else None."""
        return own_error_in(str(self._error)) if self._error else None

    @property
    def cancelled_by_others(self) -> bool:
        """True if somebody else cancelled the job."""
        return not self._cancelled and "cancelled" in str(self._error)

    def others_wait(self) -> bool:
        """Tell whether another job of the session waits for slots: a stage of it runs no task, and is not complete."""
        context = self._spark.sparkContext
        own = set(self._stages(context._jsc.sc()))
        tracker = context.statusTracker()
        stages = [tracker.getStageInfo(stage) for stage in tracker.getActiveStageIds() if stage not in own]
        return any(stage and not stage.numActiveTasks and stage.numCompletedTasks < stage.numTasks for stage in stages)

    def end(self, lost: Collection[int] = ()) -> None:
        """Wait for the end of the job; cancel the job if its tasks do not end by themselves.

        The tasks of the ranks in `lost` are silent: if Spark does not end the job, it believes their executors live.
        """
        self._thread.join(LOST_LIMIT_S if lost else END_LIMIT_S)
        if self._thread.is_alive():
            self.cancel()
            self._replace_executors(lost)

    def cancel(self) -> None:
        """End the job and its tasks now."""
        self._cancelled = True
        with contextlib.suppress(Exception):  # the SparkContext itself may have ended
            self._spark.sparkContext.cancelJobsWithTag(self._tag)
        self._thread.join(END_LIMIT_S)

    def _replace_executors(self, ranks: Collection[int]) -> None:
        """Have Spark give up the executors of these ranks, and start others where it can.

        By itself Spark waits for a sign of life for two minutes (spark.network.timeout). Until then the next barrier
        job would be given the slots of the lost executors, and never start; and whoever cleans up, or stops the
        session, would wait for the executors.
        """
        if not ranks or self._plan.one_process:
            return
        context = self._spark.sparkContext._jsc.sc()
        try:
            scheduler: Any = self._spark.sparkContext._jvm.org.apache.spark.scheduler  # type: ignore[union-attr]
            killed = getattr(getattr(scheduler, "ExecutorKilled$"), "MODULE$")
            for executor in {task.executorId() for task in self._tasks(context) if task.index() in ranks}:
                log.warning("executor %s does not answer: Spark is to replace it", executor)
                context.killAndReplaceExecutor(executor)
                context.schedulerBackend().removeExecutor(executor, killed)
        except Exception as error:  # Spark notices by itself, later
            log.warning("the executors of ranks %s cannot be replaced: %s", sorted(ranks), _reason(error))

    def _tasks(self, context: Any) -> Iterator[Any]:
        """Yield the record of each task in Spark's own store, which Spark's REST API calls `TaskData`."""
        for stage in self._stages(context):
            tasks = context.statusStore().taskList(stage, 0, self._size)
            yield from (tasks.apply(index) for index in range(tasks.size()))

    def _stages(self, context: Any) -> Iterator[int]:
        """Yield the numbers of the job's stages, of the Java SparkContext."""
        jobs = context.statusTracker()
        for job in jobs.getJobIdsForTag(self._tag):
            yield from jobs.getJobInfo(job).get().stageIds()

    def _run(self, description: str) -> None:
        try:
            with self._described(description):
                self._collect()
        except Exception as error:  # reported to the thread that watches
            self._error = error
        self._ended = time.monotonic()
        self._on_end()

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
        # The closure must not hold the session, nor anything that another version of sparkdl could not unpickle.
        plan, task, version = pickle.dumps(self._plan), self._task, self._plan.versions["sparkdl"]

        def rank_task(batches: Iterator[Any]) -> Iterator[Any]:
            for _ in batches:  # Spark reuses a Python worker only if it has read all of its input
                pass
            import pickle

            from sparkdl.errors import LaunchError
            from sparkdl.version import __version__

            if __version__ != version:
                raise LaunchError(
                    f"the driver has sparkdl {version}, but the executors have sparkdl {__version__}; send the "
                    "driver's with --py-files, or install the same version in the executors' environment"
                )
            from sparkdl.launch.worker.task import run_rank

            run_rank(pickle.loads(plan), task)
            return iter(())

        ranks = self._spark.range(self._size, numPartitions=self._size)
        ranks.mapInArrow(rank_task, "rank int", barrier=True).collect()


# The lines of a failed job's error that help, the most specific first: a Python error, the fate of an executor or a
# Python worker. Java's own frames and the wrappers around such a line do not help.
_TELLING = (
    r"(?!org\.|java\.|py4j\.)[A-Za-z_][\w.]*(?:Error|Exception): .+",
    r"ExecutorLostFailure .+",
    r"Python worker exited unexpectedly.*",
    r"Job (?:\d+ cancelled|aborted).+",
)


def _reason(error: BaseException) -> str:
    """Return the most specific line of a Spark error; the library's own words if executors lack what the driver has."""
    text = str(error).strip()
    found = (re.search(rf"^(?:.*?Exception: )?(?:\[\w+\] )?({telling})$", text, re.MULTILINE) for telling in _TELLING)
    line = next((match[1] for match in found if match), None)
    return explained(text) or line or (text.splitlines() or [type(error).__name__])[0]
