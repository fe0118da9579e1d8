"""Warn once of each kind of trouble: who polls a storage would repeat itself.

Runs on the driver and in tasks.
"""

from __future__ import annotations

import logging

__all__ = ["WarnOnce"]


class WarnOnce:
    """Passes on the first warning of each kind."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._said: set[str] = set()

    def __call__(self, kind: str, text: str, *args: object) -> None:
        """Warn, unless this kind was warned of before."""
        if kind not in self._said:
            self._said.add(kind)
            self._log.warning(text, *args)
