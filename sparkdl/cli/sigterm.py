"""End a job gracefully on SIGTERM: a training run takes a checkpoint first.

Runs on the driver. If spark-submit started the job, the signal goes to the Java process, which would stop Spark, and
with it all ranks, at once; so the signal is handled in the Java process, too.
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
"""The exit code that a shell reports for a process that SIGTERM ended."""

# Hadoop runs hooks one after the other, the highest priority first; Spark's hook stops the SparkContext at 40.
HOOK_PRIORITY = 1000
# Longer than Kubernetes, YARN and systemd wait before they kill the process.
HOOK_LIMIT_S = 3600


class Termination:
    """Handle SIGTERM while a job runs; a context manager around all that ends gracefully."""

    def __init__(self) -> None:
        self.asked = False
        """Whether SIGTERM was received."""
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
        """Handle SIGTERM of Spark's Java process as well, while the session is used."""
        from pyspark.java_gateway import ensure_callback_server_started

        gateway: Any = spark.sparkContext._gateway
        java = gateway.jvm
        ensure_callback_server_started(gateway)  # type: ignore[no-untyped-call]
        hook = java.java.lang.Thread(self)
        hooks = java.org.apache.hadoop.util.ShutdownHookManager.get()
        hooks.addShutdownHook(hook, HOOK_PRIORITY, HOOK_LIMIT_S, java.java.util.concurrent.TimeUnit.SECONDS)
        try:
            yield
        finally:
            if not self.asked:
                hooks.removeShutdownHook(hook)

    class Java:
        implements = ("java.lang.Runnable",)

    def run(self) -> None:
        """Wait until the job has ended, or return at once if no run can stop gracefully. Called by Java as it ends."""
        if not self._over.is_set():
            self.asked = True
            if graceful_stop.ask():
                self._over.wait()
