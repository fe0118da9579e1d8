"""Warn once of each kind of trouble: code that polls a storage would repeat its warnings.

Runs on the driver and in tasks.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

__all__ = ["WarnOnce"]


class WarnOnce:
    """Log the first warning of each kind, and drop the others."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._said: set[str] = set()

    def __call__(self, kind: str, text: str, *args: object) -> None:
        """Log the warning, unless one of this kind was logged before."""
        if kind not in self._said:
            self._said.add(kind)
            self._log.warning(text, *args)

    @contextlib.contextmanager
    def about(self, kind: str, text: str, *args: object) -> Iterator[None]:
        """Warn of what the block raises, which becomes the last argument, and go on after the block."""
        try:
            yield
        except Exception as error:  # any type: stores raise what they like
            self(kind, text, *args, error)
