"""Warn once of each kind of trouble: code that polls a storage would repeat its warnings.

Runs on the driver and in tasks.
"""

from __future__ import annotations

import logging

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
