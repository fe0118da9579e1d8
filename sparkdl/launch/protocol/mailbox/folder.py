"""Where mailboxes lie: the name of a run's, and what to do with those that killed drivers left.

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
# A driver writes every few seconds; a day also covers one that was stopped over night.
LEFTOVER_AGE = timedelta(days=1)


def mailbox_name(token: str) -> str:
    """The name of one run's folder. Runs put theirs into one parent, so that each finds what dead drivers left."""
    return PREFIX + token


def remove_leftovers(folder: str) -> None:
    """Remove the mailboxes beside this one in which nothing happened for a day, by the clock of their file system.

    Never raises; what cannot be removed waits for the next run.
    """
    parent, own = posixpath.split(folder)
    if not own.startswith(PREFIX):
        return
    try:
        now = storage.modified(storage.join(folder, DRIVER))
        others = [name for name in storage.listing(parent) if name.startswith(PREFIX) and name != own]
    except Exception as error:  # stores have errors of their own, and none of them is a reason to fail a run
        log.info("cannot look for old mailboxes beside %s: %s", folder, error)
        return
    for name in others:
        path = storage.join(parent, name)
        try:
            if now - _last_change(path) > LEFTOVER_AGE:
                log.info("removing %s, which a driver left that was killed", path)
                storage.delete(path)
        except Exception as error:  # as above; another run may remove it at this moment
            log.info("the old mailbox %s is left: %s", path, error)


def _last_change(folder: str) -> datetime:
    """When the driver last wrote; without its file, how old some file or the empty folder is."""
    names = storage.listing(folder)
    witness = DRIVER if DRIVER in names else "".join(names[:1])
    return storage.modified(storage.join(folder, witness) if witness else folder)
