"""Ask ranks to checkpoint and exit.

On the driver a launch registers that its ranks can stop by themselves (`obeyed`), and the handler of the program's
SIGTERM asks them to (`ask`). The launcher sends each rank process a signal, and the rank checks whether the signal came
(`is_asked`).
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
    """Register, on the driver, a launch whose ranks stop by themselves when asked; `ask` sets the event."""
    event = threading.Event()
    _launches.append(event)
    try:
        yield event
    finally:
        _launches.remove(event)


def ask() -> bool:
    """Ask all registered launches of this process for a graceful stop; True if one was registered.

    Called on the driver, from any thread.
    """
    for event in (launches := list(_launches)):
        event.set()
    return bool(launches)


def listen() -> None:
    """Handle the signal in a rank process from now on. Before, the signal is ignored, and the launcher repeats it."""

    def on_signal(*_: object) -> None:
        global _asked
        _asked = True

    signal.signal(WIND_DOWN_SIGNAL, on_signal)


def is_asked() -> bool:
    """Tell whether this rank was asked to stop by itself."""
    return _asked
