"""A driver in a process of its own, and what is left of a run of it. Runs in the test's process."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import local_cluster
from launch_faults.marks import noted, started, wait_until

SOAK = Path(__file__).resolve().parents[1]
LOG4J = SOAK.parents[1] / "conf" / "log4j2.properties"

START_LIMIT_S = 120.0
STOP_LIMIT_S = 20.0
CLEAN_LIMIT_S = 10.0
# A session that lost an executor needs a new one first.
NEXT_RUN_LIMIT_S = 60.0
# Every process that a driver starts inherits it, however far it runs away.
TAG = "SPARKDL_SOAK_DRIVER"


class StartError(Exception):
    """A driver that cannot even run what cannot fail."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """What a driver has at one moment, as far as a run could leave some of it."""

    processes: frozenset[int]
    """What it started and what those started, without Spark's own."""

    ports: frozenset[int]
    """Those that it listens on."""

    temporary: frozenset[str]
    """Names in the temporary folder of the driver and its ranks."""

    shared: frozenset[str]
    """Names in the machine's shared memory."""


class Driver:
    """A driver process with one session, as a context manager; at its end none of its descendants lives."""

    def __init__(self, launcher: str, folder: Path) -> None:
        self._launcher = launcher
        self._folder = folder
        self._tag = uuid.uuid4().hex
        self._count = 0

    def __enter__(self) -> "Driver":
        self._temporary = self._folder / "tmp"
        self._temporary.mkdir(parents=True)
        with (self._folder / "driver.log").open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "launch_faults.driver", self._launcher],
                cwd=self._folder,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                text=True,
                env=self._environment(),
                start_new_session=True,
            )
        try:
            problem = self.next_run(START_LIMIT_S)
            if problem:
                raise StartError(f"the first run of a session failed: {problem}; see {self._folder}")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(STOP_LIMIT_S)
        for process in self._tagged():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait()

    def send(self, request: dict) -> Path:
        """Have a case played. Returns where the answer will be."""
        self._count += 1
        target = self._folder / f"answer-{self._count}.json"
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps({**request, "answer": str(target)}) + "\n")
            self.process.stdin.flush()
        return target

    def next_run(self, limit_s: float = NEXT_RUN_LIMIT_S) -> str:
        """Why a run that must succeed does not; empty if it does."""
        target = self.send({})
        wait_until(lambda: target.exists() or self.ended, limit_s)
        if not target.exists():
            return f"the driver ended with {self.process.poll()}" if self.ended else f"no answer within {limit_s:g} s"
        answer = json.loads(target.read_text())
        return "" if answer.get("values") == [0, 1] else str(answer.get("text", answer))

    @property
    def ended(self) -> bool:
        """Whether the driver has ended."""
        return self.process.poll() is not None

    def footprint(self) -> Footprint:
        """What there is now."""
        connections = []
        with contextlib.suppress(psutil.Error):
            connections = psutil.Process(self.process.pid).net_connections()
        return Footprint(
            processes=frozenset(p.pid for p in self._tagged() if p.pid != self.process.pid and not belongs_to_spark(p)),
            ports=frozenset(c.laddr.port for c in connections if c.status == psutil.CONN_LISTEN),
            temporary=frozenset(os.listdir(self._temporary)),
            shared=frozenset(os.listdir("/dev/shm")),
        )

    def _tagged(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get(TAG) == self._tag:
                    found.append(process)
        return found

    def _environment(self) -> dict[str, str]:
        return {
            **local_cluster.environment(self._folder, SOAK),
            TAG: self._tag,
            "PYSPARK_SUBMIT_ARGS": f"--driver-java-options -Dlog4j2.configurationFile={LOG4J} pyspark-shell",
            "TMPDIR": str(self._temporary),
        }


def belongs_to_spark(process: psutil.Process) -> bool:
    """Whether it is a JVM, what a JVM started (Spark's Python daemon), or the daemon's fork (the next job's worker)."""
    with contextlib.suppress(psutil.Error):
        line = [process, *process.parents()][:3]
        names = [each.name() for each in line]
        return "java" in names[:2] or ("java" in names and "pyspark.daemon" in process.cmdline())
    return False


def left_behind(driver: Driver, before: Footprint, folder: Path) -> list[str]:
    """What a run left and what is still there after ten seconds, in words."""
    limit = time.monotonic() + CLEAN_LIMIT_S
    while (left := _extra(driver, before, folder)) and time.monotonic() < limit:
        time.sleep(0.2)
    return left


def _extra(driver: Driver, before: Footprint, folder: Path) -> list[str]:
    now = driver.footprint()
    alive = {*noted(folder), *(pid for pid in now.processes - before.processes if started(pid))}
    left = [f"process {pid} ({_described(pid)})" for pid in sorted(alive)]
    left += [f"port {port}" for port in sorted(now.ports - before.ports)]
    left += [f"temporary {name}" for name in sorted(now.temporary - before.temporary)]
    return left + [f"/dev/shm/{name}" for name in sorted(now.shared - before.shared)]


def _described(pid: int) -> str:
    try:
        process = psutil.Process(pid)
        return f"{process.status()} {' '.join(process.cmdline())[:80]}"
    except psutil.Error:
        return "gone"


def end(left: Iterable[str]) -> None:
    """Kill the processes that a case left, so that they do not disturb the next one."""
    for pid in (int(word.split()[1]) for word in left if word.startswith("process ")):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
