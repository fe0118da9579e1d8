"""Let one driver at a time train a run, by a lease: a file in the run's folder that its driver renews.

Runs on the driver. Works on object stores, which have no locks: of two drivers that start at the same moment the one
that wrote last holds the lease.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import time
import uuid
from typing import Any

from sparkdl import storage
from sparkdl.errors import CheckpointError
from sparkdl.storage.lease import Lease

__all__ = ["RunLock"]

log = logging.getLogger(__name__)

POLL_S = 0.5
# Longer than from seeing no other driver to having written the file: on local disks, and on object stores.
SETTLE_S = (0.1, 1.0)


class RunLock(Lease):
    """Hold the lease of the driver that trains a run; a context manager. The lease of a dead driver is taken over.

    Entering raises CheckpointError if another driver is alive; a driver on another machine is alive if it renews.
    """

    def __init__(self, run_dir: str, file: str) -> None:
        super().__init__(file)
        self._run_dir = run_dir
        self._token = uuid.uuid4().hex
        self._beat = 0

    def __enter__(self) -> RunLock:
        self._await_others()
        self.write()
        # A driver that started at the same moment has written by then, too: the last writer keeps the lease.
        time.sleep(SETTLE_S[not storage.is_local(self.file)])
        self.check()
        self._thread.start()
        return self

    def check(self) -> None:
        """Raise CheckpointError if another driver took this one for dead, or started at the same moment and won."""
        if not self.is_held():
            raise self._refusal(self._read() or {})

    def _await_others(self) -> None:
        found = self._read()
        if found is None or _has_died(found):
            return
        log.info("run_dir=%s was trained by %s; listening whether it still is", self._run_dir, _named(found))
        limit = time.monotonic() + self.expiry_s
        while time.monotonic() < limit:
            time.sleep(POLL_S)
            again = self._read()
            if again is None or _has_died(again):
                return
            if again != found:
                raise self._refusal(again)

    def _refusal(self, found: dict[str, Any]) -> CheckpointError:
        return CheckpointError(
            f"run_dir={self._run_dir} is being trained by {_named(found)}; wait for it, or choose another folder"
        )

    def is_held(self) -> bool:
        """Tell whether no other driver has written the file since."""
        return (self._read() or {}).get("token") == self._token

    def _read(self) -> dict[str, Any] | None:
        try:
            return dict(json.loads(storage.read_bytes(self.file)))
        except FileNotFoundError:
            return None
        except ValueError:  # not written by sparkdl
            return {}

    def write(self) -> None:
        """Write who holds the lease, with a number that differs from the one before."""
        self._beat += 1
        content = {
            "token": self._token,
            "host": socket.gethostname(),
            "machine": _machine(),
            "pid": os.getpid(),
            "started": _started(os.getpid()),
            "beat": self._beat,
        }
        storage.write_atomic(self.file, json.dumps(content).encode(), durable=False)


def _machine() -> str:
    """Name the namespace of process ids: a boot of a machine, and one of its containers."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        return f"{file.read().strip()}/{os.stat('/proc/self/ns/pid').st_ino}"


def _has_died(found: dict[str, Any]) -> bool:
    """Tell whether a driver on this machine has ended; False for one on another machine, of which nothing is known."""
    return found.get("machine") == _machine() and _started(found["pid"]) != found["started"]


def _started(pid: int) -> int | None:
    """Return when a process of this machine began, in clock ticks since boot; None if the process does not exist.

    The time of day changes if the clock is set, and a living driver would be taken for dead.
    """
    try:
        with open(f"/proc/{pid}/stat") as file:
            # The name of the program, in parentheses, may hold anything; the 22nd field is the 20th behind it.
            return int(file.read().rpartition(")")[2].split()[19])
    except (FileNotFoundError, ProcessLookupError):
        return None


def _named(found: dict[str, Any]) -> str:
    return f"process {found.get('pid', 'unknown')} on {found.get('host', 'an unknown host')}"
