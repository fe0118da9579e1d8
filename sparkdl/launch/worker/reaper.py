"""Supervise a rank's process as its parent: report its progress, pass on signals, leave nothing of it alive.

Runs as a separate process, the reaper, between the launcher and the rank. The reaper needs the standard library alone
and forks the rank before anything else is loaded, so that it costs little and nothing that the rank does (a lock that
is held, memory that is gone, a stop signal) can block it.

The launcher writes one byte for each command to the reaper's standard input; when that input ends, or the launcher
dies, the reaper ends the rank and all its descendants. The reaper writes JSON lines to its standard output: `beat`
every two seconds, and `exited` when the rank has exited; it exits when all descendants and the rank's temporary folder
are gone.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NoReturn

__all__ = [
    "FOLDER_PREFIX",
    "KILL",
    "STACKS",
    "STACKS_SIGNAL",
    "TERMINATE",
    "WIND_DOWN",
    "WIND_DOWN_SIGNAL",
    "Usage",
    "become_rank",
    "children_of",
    "made_progress",
]

TERMINATE = b"t"
"""Ask the rank's process group to end."""

KILL = b"k"
"""End the rank and all its descendants now."""

STACKS = b"s"
"""Make the rank write the Python stacks of its threads; a stopped process is continued for that."""

WIND_DOWN = b"w"
"""Ask the rank for a graceful stop: to save what it needs to go on later, and exit. Repeated until it has exited."""

FOLDER_PREFIX = "sparkdl-rank-"
"""The prefix of the name of a rank's temporary folder, which is the rank's TMPDIR and is removed at its end."""

# Real-time signals are free: neither Python, TensorFlow nor a JVM uses these.
STACKS_SIGNAL = signal.SIGRTMIN + 10
WIND_DOWN_SIGNAL = signal.SIGRTMIN + 11

# From <linux/prctl.h>.
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36

BEAT_S = 2.0
# A thread that waits for a lock, a socket or a peer uses no processor time at all. A polling thread uses some: a look
# every 20 ms took 0.3 %. Horovod's own thread, which wakes every millisecond, took 4 to 10 % while its rank waited.
MAIN_THREAD_SHARE = 0.01
ALL_THREADS_SHARE = 0.30
# In a rank's descendants only processes that the user started may poll; on a busy machine one that works gets 20 %.
DESCENDANTS_SHARE = 0.10
# The time for descendants to end by themselves: Python's resource tracker removes shared memory in this time.
DESCENDANTS_TERMINATE_S = 1.0
DESCENDANTS_LIMIT_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Hold the processor time that a rank has used by one time."""

    at: float
    """The time of the measurement, in seconds of a monotonic clock."""

    main: float
    """Seconds that its main thread has used."""

    threads: float
    """Seconds that all its threads have used."""

    descendants: float
    """Seconds that its descendants have used, those that have ended included."""


def made_progress(before: Usage, now: Usage) -> bool:
    """Tell whether a rank made progress between two measurements, judged by processor time."""
    elapsed = now.at - before.at
    return (
        now.main - before.main >= MAIN_THREAD_SHARE * elapsed
        or now.threads - before.threads >= ALL_THREADS_SHARE * elapsed
        or now.descendants - before.descendants >= DESCENDANTS_SHARE * elapsed
    )


def become_rank(launcher: int, output: int) -> None:
    """Fork. The child returns, with its output going to the file descriptor `output`; the parent never returns.

    `launcher` is the launcher's process id.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    wakeup, wakeup_end = os.pipe()
    os.set_blocking(wakeup_end, False)
    signal.set_wakeup_fd(wakeup_end, warn_on_full_buffer=False)
    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    if os.getppid() != launcher:
        os._exit(1)
    # Until the rank handles it, and before there is a rank: the reaper may pass a request on as soon as it has forked.
    signal.signal(WIND_DOWN_SIGNAL, signal.SIG_IGN)
    rank = os.fork()
    if rank:
        with contextlib.suppress(OSError):  # the child does the same; the first call counts
            os.setpgid(rank, rank)
        _Reaper(rank, wakeup, keep=(0, 1, 2, wakeup, wakeup_end)).run()
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    os.setpgid(0, 0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(source, target)
    for unused in (nothing, output, wakeup, wakeup_end):
        os.close(unused)


class _Reaper:
    def __init__(self, rank: int, wakeup: int, keep: Iterable[int]) -> None:
        self._rank = rank
        self._wakeup = wakeup
        self._status: int | None = None
        self._stop_requested = False
        # The rank's pipes must end when the rank does, not when this process does.
        for descriptor in map(int, os.listdir("/proc/self/fd")):
            if descriptor not in keep:
                with contextlib.suppress(OSError):
                    os.close(descriptor)

    def run(self) -> NoReturn:
        poller = select.poll()
        poller.register(0, select.POLLIN)
        poller.register(self._wakeup, select.POLLIN)
        before, idle, obeying = _usage(self._rank), 0.0, True
        while self._status is None and obeying:
            left = max(0.0, before.at + BEAT_S - time.monotonic())
            for descriptor, _ in poller.poll(int(1000 * left) + 1):
                obeying = self._hear(descriptor) and obeying
            self._reap()
            now = time.monotonic()
            if now >= before.at + BEAT_S and self._status is None:
                usage = _usage(self._rank)
                idle = 0.0 if made_progress(before, usage) else idle + usage.at - before.at
                before = usage
                if self._stop_requested:
                    self._signal_rank(WIND_DOWN_SIGNAL)
                state, *_ = _stat(f"/proc/{self._rank}/stat") or ["?"]
                _say({"type": "beat", "idle_s": idle, "stopped": state in "Tt"}, wait=False)
        if self._status is None:
            self._signal_rank(signal.SIGKILL)
            self._await_rank()
        # At once: the end of what the rank left behind may take time, and its peers fail meanwhile.
        _say({"type": "exited", "status": self._status}, wait=True)
        self._end_descendants()
        _remove_folder()
        os._exit(0)

    def _hear(self, descriptor: int) -> bool:
        """Handle commands or signals; return False if the rank and all descendants are to end."""
        said = os.read(descriptor, 64)
        if descriptor == self._wakeup:
            return signal.SIGTERM not in said  # the launcher has died, or somebody ends all of this host's processes
        if not said or KILL in said:
            return False
        if TERMINATE in said:
            self._signal_group(signal.SIGTERM)
        if WIND_DOWN in said:
            self._stop_requested = True
            self._signal_rank(WIND_DOWN_SIGNAL)
        if STACKS in said:
            # In this order: a stopped rank handles the signal before it goes on.
            self._signal_rank(STACKS_SIGNAL)
            self._signal_group(signal.SIGCONT)
        return True

    def _signal_group(self, number: int) -> None:
        self._reap()
        if self._status is None:  # not reaped: the numbers are still the rank's
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._rank, number)

    def _signal_rank(self, number: int) -> None:
        self._reap()
        if self._status is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._rank, number)

    def _reap(self) -> bool:
        """Reap all children that have ended, adopted ones too; return True if any are left."""
        while True:
            try:
                process, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if process == 0:
                return True
            if process == self._rank:
                self._status = status

    def _await_rank(self) -> None:
        began = time.monotonic()
        while self._status is None and time.monotonic() < began + DESCENDANTS_LIMIT_S:
            time.sleep(0.01)
            self._reap()

    def _end_descendants(self) -> None:
        """End all processes that the rank started, however detached: they have become children of this process."""
        began, asked = time.monotonic(), False
        while self._reap() and time.monotonic() < began + DESCENDANTS_LIMIT_S:
            kill = time.monotonic() > began + DESCENDANTS_TERMINATE_S
            if kill or not asked:
                for process in _descendants(os.getpid()):
                    with contextlib.suppress(ProcessLookupError, PermissionError):
                        os.kill(process, signal.SIGKILL if kill else signal.SIGTERM)
                asked = True
            time.sleep(0.02)


def _remove_folder() -> None:
    """Remove the rank's temporary folder, where TensorFlow's autograph leaves files if the process is killed."""
    import shutil  # here, since the start of every rank waits for the imports of this module

    folder = os.environ.get("TMPDIR", "")
    if os.path.basename(folder).startswith(FOLDER_PREFIX):
        shutil.rmtree(folder, ignore_errors=True)


def _say(message: dict[str, Any], *, wait: bool) -> None:
    os.set_blocking(1, wait)
    with contextlib.suppress(OSError):  # the launcher does not read, or not fast enough: the next beat says the same
        os.write(1, json.dumps(message).encode() + b"\n")


def _stat(path: str) -> list[str]:
    """Return the fields after a process's name (state, parent, …); none if the process is gone."""
    try:
        with open(path) as file:
            return file.read().rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        return []


def _seconds(path: str) -> tuple[float, float]:
    """Return the processor time of a thread or process, and that of its children that have ended, in seconds."""
    fields = _stat(path)
    # utime, stime, cutime and cstime of proc(5), in clock ticks.
    own, ended = (sum(map(int, fields[index : index + 2])) for index in (11, 13))
    return own / os.sysconf("SC_CLK_TCK"), ended / os.sysconf("SC_CLK_TCK")


def _usage(rank: int) -> Usage:
    threads, descendants = _seconds(f"/proc/{rank}/stat")
    reaped = os.times()
    descendants += reaped.children_user + reaped.children_system
    for process in _descendants(os.getpid()):
        if process != rank:
            descendants += sum(_seconds(f"/proc/{process}/stat"))
    main, _ = _seconds(f"/proc/{rank}/task/{rank}/stat")
    return Usage(at=time.monotonic(), main=main, threads=threads, descendants=descendants)


def children_of(parent: int) -> list[int]:
    """Return the process ids of a process's children."""
    return [process for process, its_parent in _parents().items() if its_parent == parent]


def _descendants(root: int) -> list[int]:
    parents = _parents()
    found, pending = [], [root]
    while pending:
        parent = pending.pop()
        children = [process for process, its_parent in parents.items() if its_parent == parent]
        found += children
        pending += children
    return found


def _parents() -> dict[int, int]:
    """Return the parent of each process of this machine."""
    fields = {int(name): _stat(f"/proc/{name}/stat") for name in os.listdir("/proc") if name.isdigit()}
    return {process: int(found[1]) for process, found in fields.items() if found}
