"""Define what the control channel and the mailbox have in common: a task's link, and the driver's taking of messages.

Used on the driver and in tasks.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Protocol

from sparkdl.launch.protocol.messages import Message

__all__ = ["Link", "OnMessage", "deliver"]

log = logging.getLogger(__name__)

OnMessage = Callable[[int, Message], None]
"""Take a rank's message. Called one at a time for each rank, in the order sent."""


class Link(Protocol):
    """Connect a task with the driver."""

    def send(self, message: Message) -> None:
        """Send a message; nothing happens if the other end is gone (`receive` then returns None)."""

    def receive(self) -> Message | None:
        """Wait for the next message; None if the other end is gone."""

    def close(self) -> None:
        """Close the connection; a thread that waits in `receive` gets None."""


def deliver(on_message: OnMessage, rank: int, messages: Iterable[Message]) -> bool:
    """Pass on a rank's messages; return False if the driver cannot read or take one, and the rank counts as lost."""
    try:
        for message in messages:
            on_message(rank, message)
    except Exception:  # without this message the later ones would be wrong
        log.exception("the driver cannot take a message of rank %d; it counts as lost", rank)
        return False
    return True
