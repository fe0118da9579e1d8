"""Start a reaper, with its rank, as a new process. Runs in the process that starts ranks."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Protocol

__all__ = ["Reaper", "StartReaper", "start_reaper"]

# The reaper is loaded from its file, without the package around it, so that it forks before anything else is loaded.
# Python puts the working folder first in the search path (as ''), where a yaml.py of the user would hide the library's.
START = """\
import sys
sys.path[:] = filter(None, sys.path)
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
spec = PathFinder.find_spec("reaper", [sys.argv[1]])
reaper = sys.modules[spec.name] = module_from_spec(spec)
spec.loader.exec_module(reaper)
launcher, output, *descriptors = map(int, sys.argv[2:])
reaper.become_rank(launcher, output)
del sys.modules[spec.name]
from sparkdl.launch.worker.rank import main
sys.exit(main(descriptors))
"""


class Reaper(Protocol):
    """Hold the launcher's end of a reaper: the process between the launcher and a rank."""

    @property
    def stdin(self) -> IO[bytes] | None:
        """The pipe for commands."""

    @property
    def stdout(self) -> IO[bytes] | None:
        """The pipe of the reaper's messages."""

    def wait(self) -> int:
        """Wait for the reaper's end, and return its exit code, or a signal's number below 0."""

    def kill(self) -> None:
        """Kill the reaper."""


StartReaper = Callable[[Mapping[str, str], Sequence[int], int], Reaper]
"""Start a reaper with its rank: takes the rank's environment, the descriptors of its task, result, events and stacks,
and that of its output."""


def start_reaper(env: Mapping[str, str], files: Sequence[int], output: int) -> Reaper:
    """Start a reaper as a new process. Raises OSError where the system starts none."""
    passed = (output, *files)
    return subprocess.Popen(
        [sys.executable, "-c", START, os.path.dirname(__file__), str(os.getpid()), *map(str, passed)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=output,
        bufsize=0,
        env=env,
        pass_fds=passed,
        start_new_session=True,
    )
