"""One rank's process: start it, relay what it says, end it with all its descendants, keep its result.

Runs in the process that starts the rank: a Spark worker, or the driver for local ranks.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from typing import IO, Any

from sparkdl.launch.outcome import Outcome
from sparkdl.launch.world import World

__all__ = ["RankProcess", "Report"]

Report = Callable[[dict[str, Any]], None]
"""Takes a rank's messages: started, line, event, and at last outcome. Called from several threads."""

TERMINATE_S = 2.0
# Time for exit handlers after the function returned: Horovod's shutdown, TensorFlow's teardown, the user's threads.
EXIT_S = 10.0
# A descendant that left the process group may hold the output open for ever.
DRAIN_S = 2.0
MAX_LINE_BYTES = 1 << 16


# Python puts the working folder before all other places, where any yaml.py of the user's would hide the library's.
START = "import sys; sys.path.pop(0); from sparkdl.launch.rank import main; sys.exit(main(sys.argv[2:]))"


class RankProcess:
    """A rank's process, as a context manager: at its end no process, thread or file of it is left.

    The thread that enters the context must live until the process has ended: the kernel ties a child's life to the
    thread that started it. The task and the result are files without a name, so nothing can stay behind.
    """

    def __init__(self, place: World, *, task: bytes, env: Mapping[str, str], report: Report) -> None:
        self._place = place
        self._task = task
        self._env = dict(env)
        self._report = report
        self._ended: dict[str, Any] | None = None
        self._stopped = False
        self._reaped = False
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._timers: list[threading.Timer] = []

    def __enter__(self) -> RankProcess:
        self._result: IO[bytes] = tempfile.TemporaryFile()
        try:
            events = self._start()
        except BaseException:
            self._result.close()
            raise
        output = self._process.stdout
        assert output is not None
        readers = [
            threading.Thread(target=self._read_output, args=(output,), daemon=True),
            threading.Thread(target=self._read_events, args=(events,), daemon=True),
        ]
        for thread in (*readers, threading.Thread(target=self._wait, args=(readers,), daemon=True)):
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._done.wait()
        self._result.close()

    @property
    def result(self) -> IO[bytes]:
        """The pickled value, or the library's own pickled error, or nothing. Complete once the outcome was reported."""
        self._result.seek(0)
        return self._result

    def wait(self) -> None:
        """Return when the process has ended and its outcome was reported."""
        self._done.wait()

    def stop(self) -> None:
        """Ask the process and its descendants to end; two seconds later, make them. Returns at once."""
        with self._lock:
            if self._stopped:
                return
            self._stopped = True
        self._signal(signal.SIGTERM)
        self._after(TERMINATE_S)

    def _start(self) -> IO[bytes]:
        read_end, write_end = os.pipe()
        events = os.fdopen(read_end, "rb")
        try:
            with tempfile.TemporaryFile() as task:
                task.write(self._task)
                task.seek(0)
                passed = (task.fileno(), self._result.fileno(), write_end)
                self._process = subprocess.Popen(
                    [sys.executable, "-c", START, "sparkdl.launch.rank", *map(str, (os.getpid(), *passed))],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    env=self._env,
                    pass_fds=passed,
                    start_new_session=True,
                )
        except BaseException:
            events.close()
            raise
        finally:
            os.close(write_end)
        return events

    def _signal(self, number: int) -> None:
        with self._lock:
            # Until it is reaped the group's number cannot belong to anybody else.
            if not self._reaped:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._process.pid, number)

    def _after(self, seconds: float) -> None:
        if self._done.is_set():
            return
        timer = threading.Timer(seconds, self._signal, args=(signal.SIGKILL,))
        timer.daemon = True
        timer.start()
        self._timers.append(timer)

    def _read_output(self, output: IO[bytes]) -> None:
        with output:
            while line := output.readline(MAX_LINE_BYTES):
                self._report({"type": "line", "text": line.decode(errors="replace").rstrip("\r\n")})

    def _read_events(self, events: IO[bytes]) -> None:
        with events:
            for line in events:
                try:
                    message = json.loads(line)
                except ValueError:  # a process that the rank forked wrote into the same pipe at the same time
                    continue
                if message.get("type") != "ended":
                    self._report({**message, "host": self._place.host} if message["type"] == "started" else message)
                    continue
                self._ended = message
                if message["kind"] == "value":
                    self._after(EXIT_S)
                else:  # its peers wait for it: tell at once, do not wait for its exit handlers
                    self._report_outcome()
                    self.stop()

    def _wait(self, readers: list[threading.Thread]) -> None:
        os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
        stopped = self._stopped  # before its end, that is: because of it
        self._signal(signal.SIGKILL)  # descendants that outlived it
        with self._lock:
            code = self._process.wait()
            self._reaped = True
        for timer in self._timers:
            timer.cancel()
        for reader in readers:
            reader.join(DRAIN_S)
        if self._ended is None:
            self._ended = self._died(code, stopped)
            self._report_outcome()
        elif self._ended["kind"] == "value":
            self._report_outcome()
        self._done.set()

    @staticmethod
    def _died(code: int, stopped: bool) -> dict[str, Any]:
        if stopped:
            return {"kind": "stopped"}
        return {"kind": "signal", "code": -code} if code < 0 else {"kind": "exit", "code": code}

    def _report_outcome(self) -> None:
        assert self._ended is not None
        fields = {name: value for name, value in self._ended.items() if name != "type"}
        outcome = Outcome(rank=self._place.rank, host=self._place.host, **fields)
        self._report({"type": "outcome", "outcome": outcome.as_data()})
