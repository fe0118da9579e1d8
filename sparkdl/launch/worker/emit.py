"""Send small events from a rank to the driver while it runs.

Runs in the rank process. Events are JSON lines on a pipe to the process that started the rank, which relays them.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from typing import Any

from sparkdl.errors import ConfigError, shown
from sparkdl.launch.protocol.messages import Event, Message, to_data

__all__ = ["announce", "connect", "emit", "is_connected"]

MAX_EVENT_BYTES = 1 << 20

_lock = threading.Lock()
# The one pipe of this process; None outside a rank.
_pipe: int | None = None


def connect(pipe: int) -> None:
    """Send this process's events to a file descriptor. Called once, by the rank's entry point."""
    global _pipe
    os.set_inheritable(pipe, False)
    _pipe = pipe


def is_connected() -> bool:
    """Tell whether this process is a rank, whose events reach a driver."""
    return _pipe is not None


def emit(event: dict[str, Any]) -> None:
    """Send a small event to the driver, where `on_event(rank, event)` receives it live. Does nothing outside
    a rank.

    Raises ConfigError if the event is not JSON or is larger than 1 MiB.
    """
    announce(Event(event=event))


def announce(message: Message) -> None:
    """Send one message to the process that started this rank."""
    if _pipe is None:
        return
    try:
        line = json.dumps(data := to_data(message)).encode() + b"\n"
    except (TypeError, ValueError) as error:
        raise ConfigError(f"event {shown(data)} must be made of JSON values: {error}") from error
    if len(line) > MAX_EVENT_BYTES:
        raise ConfigError(f"an event of {len(line)} bytes is too large; send at most {MAX_EVENT_BYTES} bytes")
    # A broken pipe means that the launcher is gone; this process ends with the launcher.
    with _lock, contextlib.suppress(BrokenPipeError):
        view = memoryview(line)
        while view:
            view = view[os.write(_pipe, view) :]
