"""Name the folder of a run's mailbox, and remove the mailboxes that killed drivers left.

Runs on the driver.
"""

from __future__ import annotations

import logging
import posixpath
from datetime import datetime, timedelta

from sparkdl import storage
from sparkdl.launch.protocol.mailbox.file import DRIVER

__all__ = ["mailbox_name", "remove_leftovers"]

log = logging.getLogger(__name__)

PREFIX = "mailbox-"
# A driver writes every few seconds; a day also covers a driver that was stopped over night.
LEFTOVER_AGE = timedelta(days=1)


def mailbox_name(token: str) -> str:
    """Return the name of one run's folder. All are in one parent, so that each run finds what killed drivers left."""
    return PREFIX + token


def remove_leftovers(folder: str) -> None:
    """Remove the mailboxes beside this one in which nothing happened for a day, by the clock of their file system.

    Never raises; a mailbox that cannot be removed is left to the next run.
    """
    parent, own = posixpath.split(folder)
    if not own.startswith(PREFIX):
        return
    try:
        now = storage.modified(storage.join(folder, DRIVER))
        others = [name for name in storage.listing(parent) if name.startswith(PREFIX) and name != own]
    except Exception as error:  # any type: stores raise what they like, which must not fail a run
        log.info("cannot look for old mailboxes beside %s: %s", folder, error)
        return
    for name in others:
        path = storage.join(parent, name)
        try:
            if now - _last_change(path) > LEFTOVER_AGE:
                log.info("removing %s, which a driver left that was killed", path)
                storage.delete(path)
        except Exception as error:  # as above; another run may remove it now
            log.info("the old mailbox %s is left: %s", path, error)


def _last_change(folder: str) -> datetime:
    """Return when the driver last wrote; without the driver's file, the time of some file or of the empty folder."""
    names = storage.listing(folder)
    witness = DRIVER if DRIVER in names else "".join(names[:1])
    return storage.modified(storage.join(folder, witness) if witness else folder)
