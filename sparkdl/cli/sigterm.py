"""SIGTERM ends a job in order: a training run takes a checkpoint first.

Runs on the driver. Where spark-submit started it, whoever ends the job sends the signal to the Java process, which
would stop Spark, and with it all ranks, at once; so it is heard there too.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from sparkdl.launch.worker import graceful_stop

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

__all__ = ["EXIT_TERMINATED", "Termination"]

EXIT_TERMINATED = 128 + signal.SIGTERM
"""What a shell calls the exit of a process that SIGTERM ended."""

# Hadoop runs hooks one after the other, the highest first; Spark's own stops the SparkContext and has 40.
HOOK_PRIORITY = 1000
# Kubernetes, YARN and systemd lose their patience earlier.
HOOK_LIMIT_S = 3600


class Termination:
    """Hears SIGTERM while a job runs; a context manager around all that is to end in order.

    Attributes:
        asked: whether it was heard.
    """

    def __init__(self) -> None:
        self.asked = False
        self._over = threading.Event()

    def __enter__(self) -> Termination:
        self._before = signal.signal(signal.SIGTERM, self._hear)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGTERM, self._before)
        self._over.set()

    def _hear(self, *_: object) -> None:
        self.asked = True
        if not graceful_stop.ask():
            sys.exit(EXIT_TERMINATED)

    @contextlib.contextmanager
    def of(self, spark: SparkSession) -> Iterator[None]:
        """Hear it from Spark's Java process as well, as long as the session is used."""
        from pyspark.java_gateway import ensure_callback_server_started

        gateway: Any = spark.sparkContext._gateway
        java = gateway.jvm
        ensure_callback_server_started(gateway)  # type: ignore[no-untyped-call]
        hook = java.java.lang.Thread(_Hook(self))
        hooks = java.org.apache.hadoop.util.ShutdownHookManager.get()
        hooks.addShutdownHook(hook, HOOK_PRIORITY, HOOK_LIMIT_S, java.java.util.concurrent.TimeUnit.SECONDS)
        try:
            yield
        finally:
            if not self.asked:
                hooks.removeShutdownHook(hook)

    def hold(self) -> None:
        """Called while the Java process ends: return when the job has, or at once if nothing winds down."""
        if not self._over.is_set():
            self.asked = True
            if graceful_stop.ask():
                self._over.wait()


class _Hook:
    """A Java Runnable."""

    def __init__(self, termination: Termination) -> None:
        self._termination = termination

    def run(self) -> None:
        self._termination.hold()

    class Java:
        implements = ("java.lang.Runnable",)
