"""The wish that a run ends by itself, soon, with what it needs to go on later.

On the driver a launch says that its ranks can (`obeyed`), and whoever hears the program's SIGTERM asks them to (`ask`).
The launcher sends each rank process a signal, and the rank looks whether it came (`is_asked`).
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator

from sparkdl.launch.worker.reaper import WIND_DOWN_SIGNAL

__all__ = ["ask", "is_asked", "listen", "obeyed"]

_launches: list[threading.Event] = []
_asked = False


@contextlib.contextmanager
def obeyed() -> Iterator[threading.Event]:
    """On the driver, around a launch whose ranks wind down when they are asked to: the event says that they are."""
    event = threading.Event()
    _launches.append(event)
    try:
        yield event
    finally:
        _launches.remove(event)


def ask() -> bool:
    """Ask all launches of this process that can to wind down; whether there was one. On the driver, from any thread."""
    for event in (launches := list(_launches)):
        event.set()
    return bool(launches)


def listen() -> None:
    """In a rank process: from now on the signal is heard. Until then it is ignored, and the launcher repeats it."""

    def hear(*_: object) -> None:
        global _asked
        _asked = True

    signal.signal(WIND_DOWN_SIGNAL, hear)


def is_asked() -> bool:
    """Whether this rank was asked to wind down."""
    return _asked
