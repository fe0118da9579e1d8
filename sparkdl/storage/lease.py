"""Hold a file that its owner renews while it works, so that others know that the owner lives.

Runs on the driver, on any storage: object stores have no locks.
"""

from __future__ import annotations

import logging
import threading
from typing import ClassVar, TypeVar

from sparkdl import storage

__all__ = ["Lease"]

log = logging.getLogger(__name__)

_Held = TypeVar("_Held", bound="Lease")


class Lease:
    """Hold a lease, as a context manager: a thread renews the file, which is deleted at the end.

    Here the file is empty, and the lease stands until another owner deletes it. A subclass may write content.
    """

    interval_s: ClassVar[float] = 5.0
    """Seconds between two renewals."""

    expiry_s: ClassVar[float] = 60.0
    """An owner that does not renew for this time counts as dead. Pauses of machines and stores are shorter."""

    def __init__(self, file: str) -> None:
        self.file = file
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep, name=f"lease {file}", daemon=True)

    def __enter__(self: _Held) -> _Held:
        self.write()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        if self.is_held():
            storage.delete_file(self.file)

    def is_held(self) -> bool:
        """Tell whether the lease stands: whoever takes its owner for dead ends the lease."""
        return storage.exists(self.file)

    def write(self) -> None:
        """Write the file anew."""
        storage.touch(self.file)

    def renew(self) -> None:
        """Renew the lease, if it stands."""
        if self.is_held():
            self.write()

    def _keep(self) -> None:
        while not self._ended.wait(self.interval_s):
            try:
                self.renew()
            except Exception as error:  # each store has other errors; the next renewal, or the owner's check, will show
                log.warning("%s cannot be renewed: %s", self.file, error)
