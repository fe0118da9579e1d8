"""Start a fork server, have it fork ranks, and end it. Runs in the process that starts ranks."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import IO

from sparkdl.launch.worker.fork_server.server import PROCESS, Request, send_request

__all__ = ["ForkServer", "ForkedReaper"]

END_LIMIT_S = 5.0
# Variables that differ between the ranks of a host; the libraries read them after the fork.
OF_A_RANK = ("HOROVOD_", "TMPDIR", "SPARKDL_PROCESS", "CUDA_VISIBLE_DEVICES")

START = """\
import socket, sys
sys.path[:] = filter(None, sys.path)
from sparkdl.launch.worker.fork_server.server import serve
descriptors = serve(int(sys.argv[1]), socket.socket(fileno=int(sys.argv[2])))
del sys.argv[1:]
from sparkdl.launch.worker.rank import main
sys.exit(main(descriptors))
"""


class ForkedReaper:
    """Hold the launcher's end of a reaper that the fork server forked, as `subprocess.Popen` does of its child."""

    def __init__(self, process: int, stdin: IO[bytes], stdout: IO[bytes]) -> None:
        self.stdin = stdin
        self.stdout = stdout
        try:
            self._process = os.pidfd_open(process)
        except ProcessLookupError:  # dead and reaped already, as the end of stdout says
            self._process = -1

    def wait(self) -> int:
        """Return the status of a reaper that was killed: one that was not reports the rank's exit before it ends.

        Called once, when `stdout` has ended.
        """
        process, self._process = self._process, -1
        if process >= 0:
            os.close(process)
        return -signal.SIGKILL

    def kill(self) -> None:
        """Kill the reaper, if it lives."""
        with contextlib.suppress(OSError):
            signal.pidfd_send_signal(self._process, signal.SIGKILL)


class ForkServer:
    """Fork reapers of ranks from a process that has loaded the libraries. A context manager; one thread at a time.

    Args:
        limit_s: seconds to wait for a fork, the import of the libraries included.
    """

    def __init__(self, *, limit_s: float) -> None:
        self._limit_s = limit_s
        self._env: dict[str, str] = {}
        self._server: subprocess.Popen[bytes] | None = None
        self._connection: socket.socket
        self._errors: IO[bytes]

    def __enter__(self) -> ForkServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def prepare(self, env: Mapping[str, str]) -> None:
        """Have the libraries loaded, in the background, by a process of the environment that a rank would have.

        A fork server that has another environment, or has died, is replaced: libraries read variables at their import.
        """
        own = {name: value for name, value in env.items() if not name.startswith(OF_A_RANK)}
        if self._server is not None and self._server.poll() is None and own == self._env:
            return
        self.close()
        self._env = own
        self._start()

    def fork(
        self, env: Mapping[str, str], files: Sequence[int], output: int, *, modules: Sequence[str] = ()
    ) -> ForkedReaper:
        """Fork a reaper with its rank, as `start_reaper` starts them.

        Args:
            env: the environment variables of the rank.
            files: the descriptors of the rank's task, result, events and stacks.
            output: the descriptor of the reaper's standard error and the rank's output.
            modules: the modules to import before the fork, if they are not imported yet.

        Raises OSError if the fork server has died or does not fork in time.
        """
        self.prepare(env)
        try:
            return self._ask(env, files, output, modules)
        except ConnectionError:  # the fork server has just died: ranks that it forked die, too
            self.prepare(env)
            return self._ask(env, files, output, modules)

    def _ask(self, env: Mapping[str, str], files: Sequence[int], output: int, modules: Sequence[str]) -> ForkedReaper:
        stdin, stdin_end = os.pipe()
        stdout_end, stdout = os.pipe()
        writer, reader = os.fdopen(stdin_end, "wb", buffering=0), os.fdopen(stdout_end, "rb")
        request = Request(
            files=(stdin, stdout, output, *files), env=dict(env), folder=os.getcwd(), modules=tuple(modules)
        )
        try:
            send_request(self._connection, request)
            answer = self._connection.recv(PROCESS.size)
            if len(answer) < PROCESS.size:
                raise ConnectionResetError("it has ended")
        except OSError as error:
            writer.close()
            reader.close()
            what = f"the fork server forks no rank: {error}{self._said()}"
            self._give_up()  # a late answer would be taken for that to the next request
            raise type(error)(what) from error
        finally:
            os.close(stdin)
            os.close(stdout)
        return ForkedReaper(PROCESS.unpack(answer)[0], writer, reader)

    def _start(self) -> None:
        """Start the process in a thread that waits for it: the kernel ties a child's life to the thread that starts it.

        The thread that calls may end while the fork server is still needed.
        """
        self._connection, theirs = socket.socketpair()
        self._connection.settimeout(self._limit_s)
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - `close` closes it
        started: Future[subprocess.Popen[bytes]] = Future()

        def keep() -> None:
            try:
                server = subprocess.Popen(
                    [sys.executable, "-c", START, str(os.getpid()), str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=self._errors,
                    env=self._env,
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,
                )
            except BaseException as error:
                started.set_exception(error)
                return
            started.set_result(server)
            server.wait()

        threading.Thread(target=keep, name="fork server", daemon=True).start()
        with theirs:
            self._server = started.result()

    def close(self) -> None:
        """End the fork server, and with it what it has forked; another call of `prepare` or `fork` starts a new one."""
        if self._server is None:
            return
        self._connection.close()
        try:
            self._server.wait(END_LIMIT_S)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait()
        self._server = None
        self._errors.close()

    def _give_up(self) -> None:
        """Kill a fork server that has died or does not answer, with what it has forked."""
        if self._server is not None:
            self._server.kill()
        self.close()

    def _said(self) -> str:
        """Return the last line that the fork server wrote to standard error, after a colon."""
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").split("\n")
        return next((f": {line.strip()}" for line in reversed(lines) if line.strip()), "")
