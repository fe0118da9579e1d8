"""Fork rank processes, on request, from a process that has loaded the libraries.

Runs as a separate process, the fork server, between the launcher and the reapers of its ranks. The fork server loads
TensorFlow, Keras and Horovod once and runs nothing with them: a forked rank has the state of a process that has just
imported the libraries, whatever other ranks did before.

The launcher sends requests through a socket (`read_request`). When the socket ends, or the launcher dies, the fork
server exits, the kernel sends its children, the reapers, SIGTERM, and they end their ranks.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import select
import signal
import socket
import struct
import sys
import tempfile
import time
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sparkdl.imports import keras_backend, load_libraries
from sparkdl.launch.worker.reaper import PR_SET_CHILD_SUBREAPER, PR_SET_PDEATHSIG, become_rank, children_of

__all__ = ["FILES", "PROCESS", "Request", "read_request", "send_request", "serve"]

FILES = 7
"""The number of file descriptors that travel with a request: see `Request.files`."""

PROCESS = struct.Struct(">I")
"""The answer to a request: the process id of the reaper."""

_LENGTH = struct.Struct(">I")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Ask for a rank process."""

    files: tuple[int, ...]
    """The file descriptors of the reaper's standard input, output and error, and of the rank's task, result, events and
    stacks."""

    env: dict[str, str]
    """The environment variables of the rank."""

    folder: str
    """The working folder of the rank."""

    modules: tuple[str, ...]
    """The modules to import before the fork, if they are not imported yet."""


def send_request(connection: socket.socket, request: Request) -> None:
    """Send a request to the fork server. Raises OSError if the fork server is gone."""
    text = json.dumps({"env": request.env, "folder": request.folder, "modules": request.modules}).encode()
    socket.send_fds(connection, [_LENGTH.pack(len(text))], request.files)
    connection.sendall(text)


def read_request(connection: socket.socket) -> Request | None:
    """Wait for the next request; None if the launcher has closed the socket."""
    head, files, *_ = socket.recv_fds(connection, _LENGTH.size, FILES)
    if not head:
        return None
    # The launcher writes the head at once, so that the head arrives whole.
    (left,) = _LENGTH.unpack(head)
    parts = []
    while left:
        part = connection.recv(min(left, 1 << 16))
        if not part:
            return None
        parts.append(part)
        left -= len(part)
    data = json.loads(b"".join(parts))
    return Request(files=tuple(files), env=data["env"], folder=data["folder"], modules=tuple(data["modules"]))


def serve(launcher: int, connection: socket.socket) -> list[int]:
    """Fork a rank for each request. Returns in each rank alone: the descriptors of task, result, events and stacks.

    `launcher` is the process id of the launcher.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    # What a rank started becomes a child of this process if the rank's reaper was killed.
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    if os.getppid() != launcher:
        os._exit(1)
    wakeup, wakeup_end = os.pipe()
    os.set_blocking(wakeup_end, False)
    signal.set_wakeup_fd(wakeup_end, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the launcher's Ctrl-C reaches this process by the socket's end
    began_with = dict(os.environ)
    _load(())
    poller = select.poll()
    poller.register(connection, select.POLLIN)
    poller.register(wakeup, select.POLLIN)
    reapers: set[int] = set()
    while True:
        for descriptor, _ in poller.poll():
            if descriptor == wakeup:
                os.read(wakeup, 64)
                _reap(reapers)
                continue
            request = read_request(connection)
            if request is None:
                os._exit(0)
            _load(request.modules)
            with warnings.catch_warnings():  # jemalloc's and OpenBLAS' threads handle a fork themselves
                warnings.simplefilter("ignore", DeprecationWarning)
                reaper = os.fork()
            if reaper == 0:
                for unused in (connection.detach(), wakeup, wakeup_end):
                    os.close(unused)
                return _become_rank(request, os.getppid(), began_with)
            reapers.add(reaper)
            for file in request.files:
                os.close(file)
            connection.sendall(PROCESS.pack(reaper))


def _load(modules: Iterable[str]) -> None:
    """Import the libraries and these modules, if they are not imported yet.

    Nothing is shown, as no rank runs yet: a rank imports anew what cannot be imported here, and fails with its error.
    """
    if keras_backend() != "tensorflow":  # Horovod imports Keras, and training chooses the backend in the rank
        return
    missing = [name for name in ("horovod.tensorflow", *modules) if name not in sys.modules]
    if not missing:
        return
    with warnings.catch_warnings(), contextlib.suppress(Exception):
        warnings.simplefilter("ignore")
        load_libraries()
        for name in missing:
            importlib.import_module(name)
    gc.freeze()


def _reap(reapers: set[int]) -> None:
    """Reap all children that have ended; kill what a killed reaper has left."""
    with contextlib.suppress(ChildProcessError):
        while (child := os.waitpid(-1, os.WNOHANG)[0]) != 0:
            reapers.discard(child)
    for orphan in set(children_of(os.getpid())) - reapers:
        with contextlib.suppress(ProcessLookupError):
            os.kill(orphan, signal.SIGKILL)


def _change_environment(began_with: Mapping[str, str], env: Mapping[str, str]) -> None:
    """Give this process the variables that a new one would have after its imports: libraries set some, too."""
    for name in began_with.keys() - env.keys():
        os.environ.pop(name, None)
    os.environ.update({name: value for name, value in env.items() if began_with.get(name) != value})


def _become_rank(request: Request, server: int, began_with: Mapping[str, str]) -> list[int]:
    """Give a forked process the files and the environment of a new one, and leave all that the parent had drawn."""
    os.setsid()
    standard, rank_files = request.files[:3], request.files[3:]
    for target, file in enumerate(standard):
        os.dup2(file, target)
    _change_environment(began_with, request.env)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    become_rank(server, os.dup(standard[2]))
    for file in standard:
        os.close(file)
    os.chdir(request.folder)
    time.tzset()
    tempfile.tempdir = None
    # Modules that were written since this process looked.
    importlib.invalidate_caches()
    if "numpy" in sys.modules:  # Python's own generator is seeded anew by each fork, NumPy's is not
        sys.modules["numpy"].random.seed()
    return list(rank_files)
