"""Start one rank's process, relay its messages, end the process with all its descendants, and keep its result.

Runs in the process that starts the rank: a Spark worker, or the driver for local ranks.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import IO

from sparkdl.launch.protocol import messages
from sparkdl.launch.protocol.messages import Ended, Message, Outcome, from_data
from sparkdl.launch.worker.rank_log_file import RankLog
from sparkdl.launch.worker.reaper import FOLDER_PREFIX, KILL, STACKS, TERMINATE, WIND_DOWN
from sparkdl.launch.worker.start_reaper import StartReaper, start_reaper
from sparkdl.launch.world import World

__all__ = ["RankProcess", "Report"]

Report = Callable[[Message], None]
"""Take a rank's messages, at last its `Outcome`. Called from several threads."""

TERMINATE_S = 2.0
# Time for exit handlers after the function returned: Horovod's shutdown, TensorFlow's teardown, the user's threads.
EXIT_S = 10.0
# The reaper's own limit for descendants that do not die, and some more.
REAPER_LIMIT_S = 8.0
# The readers' pipes end with the processes that write to them; the rank's own output is read at once.
DRAIN_S = 2.0
LAST_WORDS_S = 0.5
STACKS_LIMIT_S = 2.0
MAX_LINE_BYTES = 1 << 16


class RankProcess:
    """Run a rank's process, as a context manager: at its end no process, thread or file of the rank is left.

    The thread that enters the context must live until the process has ended: the kernel ties a child's life to the
    thread that started the child. Task, result and stacks are files without a name, so nothing can stay behind; the
    rank's folder for temporary files, its TMPDIR, is removed with its files. Lines go to `log`, too. `start` starts the
    reaper, with the rank's process.
    """

    def __init__(
        self,
        world: World,
        *,
        task: bytes,
        env: Mapping[str, str],
        report: Report,
        log: RankLog | None,
        start: StartReaper = start_reaper,
    ) -> None:
        self._world = world
        self._task = task
        # Marks this rank's processes, to find them if the reaper itself is killed.
        self._mark = f"SPARKDL_PROCESS={secrets.token_hex(16)}"
        name, _, value = self._mark.partition("=")
        self._env = {**env, name: value}
        self._report = report
        self._log = log
        self._start_reaper = start
        self._outcome: Outcome | None = None
        self._stopped = False
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._timers: list[threading.Timer] = []

    def __enter__(self) -> RankProcess:
        self._result: IO[bytes] = tempfile.TemporaryFile()
        self._stacks: IO[bytes] = tempfile.TemporaryFile()
        chosen = self._env.get("TMPDIR", "")
        self._folder = tempfile.mkdtemp(prefix=FOLDER_PREFIX, dir=chosen if os.path.isdir(chosen) else None)
        self._env["TMPDIR"] = self._folder
        try:
            output, events = self._start()
        except BaseException:
            self._remove_files()
            raise
        readers = [
            threading.Thread(target=self._read_output, args=(output,), daemon=True),
            threading.Thread(target=self._read_events, args=(events,), daemon=True),
        ]
        for thread in (*readers, threading.Thread(target=self._follow_reaper, args=(readers,), daemon=True)):
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._done.wait()
        self._remove_files()

    @property
    def result(self) -> IO[bytes]:
        """The pickled value, or the library's pickled error, or nothing. Complete once the outcome was reported."""
        self._result.seek(0)
        return self._result

    def wait(self) -> None:
        """Wait until the process has ended and its outcome was reported."""
        self._done.wait()

    def stop(self) -> None:
        """Ask the process and its descendants to end, and kill them two seconds later. Returns at once."""
        with self._lock:
            if self._stopped:
                return
            self._stopped = True
        self._command(TERMINATE)
        self._after(TERMINATE_S, self._command, KILL)
        self._after(TERMINATE_S + REAPER_LIMIT_S, self._reaper.kill)

    def wind_down(self) -> None:
        """Ask the process to stop by itself. Returns at once; a function that does not check for this runs on."""
        self._command(WIND_DOWN)

    def report_stacks(self) -> None:
        """Report the Python stacks of all the rank's threads, soon; a stopped process is continued for that."""
        threading.Thread(target=self._report_stacks, daemon=True).start()

    def _start(self) -> tuple[IO[bytes], IO[bytes]]:
        output, output_end = os.pipe()
        events, events_end = os.pipe()
        try:
            with tempfile.TemporaryFile() as task:
                task.write(self._task)
                task.seek(0)
                files = (task.fileno(), self._result.fileno(), events_end, self._stacks.fileno())
                self._reaper = self._start_reaper(self._env, files, output_end)
        except BaseException:
            os.close(output)
            os.close(events)
            raise
        finally:
            os.close(output_end)
            os.close(events_end)
        return os.fdopen(output, "rb"), os.fdopen(events, "rb")

    def _remove_files(self) -> None:
        self._result.close()
        self._stacks.close()
        shutil.rmtree(self._folder, ignore_errors=True)  # left only if the reaper itself was killed

    def _command(self, command: bytes) -> None:
        with self._lock, contextlib.suppress(OSError, ValueError):  # the reaper has ended
            assert self._reaper.stdin is not None
            self._reaper.stdin.write(command)

    def _after(self, seconds: float, function: Callable[..., None], *args: object) -> None:
        if self._done.is_set():
            return
        timer = threading.Timer(seconds, function, args=args)
        timer.daemon = True
        timer.start()
        self._timers.append(timer)

    def _read_output(self, output: IO[bytes]) -> None:
        with output:
            while line := output.readline(MAX_LINE_BYTES):
                text = line.decode(errors="replace").rstrip("\r\n")
                if self._log:
                    self._log.write(text)
                self._report(messages.Line(text=text))

    def _read_events(self, events: IO[bytes]) -> None:
        with events:
            for line in events:
                try:
                    message = from_data(json.loads(line))
                except ValueError:  # a process that the rank forked wrote into the same pipe at the same time
                    continue
                match message:
                    case messages.Started():
                        self._report(replace(message, host=self._world.host))
                    case Ended():
                        # Whatever the rank says, a stop is why the rank ended.
                        outcome = self._end(message, self._stopped)
                        if outcome.kind == "value":
                            self._report(messages.Returned())
                            self._after(EXIT_S, self._overrun)
                        elif outcome.failed:
                            self.stop()
                    case _:
                        self._report(message)

    def _follow_reaper(self, readers: list[threading.Thread]) -> None:
        assert self._reaper.stdout is not None and self._reaper.stdin is not None
        exited = False
        for line in self._reaper.stdout:
            message = from_data(json.loads(line))
            if isinstance(message, messages.Exited):
                exited, stopped = True, self._stopped  # stopped before the exit, that is: the stop is its cause
                for reader in readers:
                    reader.join(LAST_WORDS_S)
                self._died(os.waitstatus_to_exitcode(message.status or 0), stopped)
            else:
                self._report(message)
        code = self._reaper.wait()
        if not exited:  # the reaper itself was killed, and the kernel has killed the rank
            _kill_marked(self._mark)
        for timer in self._timers:
            timer.cancel()
        for reader in readers:
            reader.join(DRAIN_S)
        with self._lock:
            self._reaper.stdin.close()
        self._reaper.stdout.close()
        self._died(code, self._stopped)
        if self._outcome is not None and not self._outcome.failed:
            self._report(self._outcome)
        self._done.set()

    def _died(self, code: int, stopped: bool) -> None:
        """Note the end of the process, unless the rank itself has reported how it ended."""
        if self._outcome is None:
            self._end(Ended(kind="signal", code=-code) if code < 0 else Ended(kind="exit", code=code), stopped)

    def _end(self, ended: Ended, stopped: bool) -> Outcome:
        fields = asdict(Ended(kind="stopped") if stopped else ended)
        self._outcome = outcome = Outcome(rank=self._world.rank, host=self._world.host, **fields)
        if outcome.failed:  # the peers wait for this rank: report at once, without waiting for its exit handlers
            self._report(outcome)
        return outcome

    def _overrun(self) -> None:
        self._report(messages.Overrun(seconds=EXIT_S))
        self._command(KILL)

    def _report_stacks(self) -> None:
        self._command(STACKS)
        limit, size = time.monotonic() + STACKS_LIMIT_S, 0
        with contextlib.suppress(ValueError, OSError):  # the process has ended meanwhile, and its files are closed
            while time.monotonic() < limit:
                time.sleep(0.2)
                grown = os.fstat(self._stacks.fileno()).st_size
                if grown and grown == size:
                    break
                size = grown
            text = os.pread(self._stacks.fileno(), MAX_LINE_BYTES, 0).decode(errors="replace")
            self._report(messages.Stacks(text=text))


def _kill_marked(mark: str) -> None:
    """Kill the processes that were started with this variable in their environment."""
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{name}/environ", "rb") as file:
            if mark.encode() in file.read().split(b"\0"):
                os.kill(int(name), signal.SIGKILL)
