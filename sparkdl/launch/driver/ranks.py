"""Describe the ranks to start, define how the driver commands them, and collect the values that they return.

Runs on the driver, wherever the ranks run.
"""

from __future__ import annotations

import pickle
import shutil
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from typing import IO, Any, Protocol

from sparkdl.launch.config import LaunchConfig

__all__ = ["Ranks", "RanksSpec", "Values"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RanksSpec:
    """Describe the ranks to start.

    Attributes:
        task: the pickled function with its arguments.
        size: the number of ranks.
        launch: where the ranks run.
        description: the name of the job in the Spark UI.
        log_folder: where each rank's output is kept, or None.
        modules: the modules that the fork server of a worker group imports for the ranks.
    """

    task: bytes
    size: int
    launch: LaunchConfig
    description: str = ""
    log_folder: str | None = None
    modules: tuple[str, ...] = ()


class Ranks(Protocol):
    """Command the ranks of a run, for the monitor. Each call returns at once."""

    def stop(self) -> None:
        """End all ranks, within two seconds."""

    def dump_stacks(self) -> None:
        """Have all ranks report the Python stacks of their threads."""

    def request_stop(self) -> None:
        """Ask the ranks to save what they need to go on later, and to exit."""

    def is_alive(self) -> bool:
        """Tell whether more messages of the ranks may come."""


class Values:
    """Hold each rank's pickled value in a file without a name, since values may be large. A context manager.

    One thread at a time adds to a rank's value.
    """

    def __init__(self, size: int) -> None:
        self._size = size

    def __enter__(self) -> Values:
        with ExitStack() as stack:
            self._files: list[IO[bytes]] = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(self._size)]
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def add(self, rank: int, content: bytes) -> None:
        """Add the next bytes of a rank's value."""
        self._files[rank].write(content)

    def copy(self, rank: int, content: IO[bytes]) -> None:
        """Add a file's rest to a rank's value."""
        shutil.copyfileobj(content, self._files[rank], 1 << 20)

    def load(self, rank: int) -> Any:
        """Unpickle a rank's value. Raises EOFError if the rank has no value, and whatever unpickling raises."""
        file = self._files[rank]
        file.seek(0)
        return pickle.load(file)
