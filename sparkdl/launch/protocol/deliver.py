"""Pass a rank's messages on to whoever takes them on the driver, by the control channel or by the mailbox."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from sparkdl.launch.protocol.messages import Message

__all__ = ["OnMessage", "deliver"]

log = logging.getLogger(__name__)

OnMessage = Callable[[int, Message], None]
"""Take a rank's message. Called one at a time for each rank, in the order sent."""


def deliver(on_message: OnMessage, rank: int, messages: Iterable[Message]) -> bool:
    """Pass on a rank's messages; return False if the driver cannot read or take one, and the rank counts as lost."""
    try:
        for message in messages:
            on_message(rank, message)
    except Exception:  # without this message the later ones would be wrong
        log.exception("the driver cannot take a message of rank %d; it counts as lost", rank)
        return False
    return True
