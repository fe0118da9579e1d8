"""Print rank output and call `on_event` from a background thread, so that neither can stall the ranks.

Runs on the driver. A terminal that nobody reads must not stop the ranks, nor hide that one of them failed.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["ConsoleQueue"]

log = logging.getLogger(__name__)

QUEUED_LINES = 10_000
"""Lines that may wait; further lines are left out until half of the waiting ones are shown."""

# A rank that prints without line ends sends lines of 64 KiB.
QUEUED_CHARACTERS = 64 << 20


@dataclass(slots=True)
class _Gap:
    """Mark the spot where lines were left out, and count them."""

    lines: int = 0


@dataclass(frozen=True, slots=True)
class _Event:
    rank: int
    event: dict[str, Any]


class ConsoleQueue:
    """Deliver lines and events in order, in a separate thread. A context manager; at its end all is delivered.

    Args:
        show: shows a line. After it has raised, nothing more is shown.
        on_event: called as `on_event(rank, event)`, or None. After it has raised, it gets no more events.
        on_error: called once, from the thread, when `on_event` has raised.
    """

    def __init__(
        self,
        show: Callable[[str], None],
        on_event: Callable[[int, dict[str, Any]], None] | None,
        *,
        on_error: Callable[[], None] | None = None,
    ) -> None:
        self._show: Callable[[str], None] | None = show
        self._on_event = on_event
        self._on_error = on_error
        self._error: BaseException | None = None
        self._changed = threading.Condition()
        self._waiting: deque[str | _Gap | _Event] = deque()
        self._lines = 0
        self._characters = 0
        self._gap: _Gap | None = None
        self._closing = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._deliver, name="teller", daemon=True)

    def __enter__(self) -> ConsoleQueue:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def error(self) -> BaseException | None:
        """The error that `on_event` raised, or None."""
        return self._error

    def line(self, text: str) -> None:
        """Queue a line, or count it as left out if too many wait. Returns at once; nothing happens after `close`."""
        with self._changed:
            if self._closing:
                return
            if self._is_full():
                if self._gap is None:
                    self._gap = _Gap()
                    self._waiting.append(self._gap)
                self._gap.lines += 1
                return
            self._gap = None
            self._waiting.append(text)
            self._lines += 1
            self._characters += len(text)
            self._changed.notify()

    def event(self, rank: int, event: dict[str, Any]) -> None:
        """Queue an event. Returns at once; nothing happens after `close`."""
        with self._changed:
            if not self._closing and self._on_event is not None:
                self._waiting.append(_Event(rank, event))
                self._changed.notify()

    def close(self) -> None:
        """Wait until all is delivered: as long as the calls of `show` and `on_event` take.

        A caller that cannot wait may interrupt `close`: then the thread ends after the call that it is in, and the rest
        is dropped.
        """
        with self._changed:
            self._closing = True
            self._changed.notify()
        try:
            # Not the thread's own join: an interrupted join takes the thread for ended.
            self._ended.wait()
            self._thread.join()
        except BaseException:  # KeyboardInterrupt
            with self._changed:
                self._waiting.clear()
            raise

    def _is_full(self) -> bool:
        # Half of the limit after a gap: else every line that is shown would be followed by a line about a gap.
        share = 1 if self._gap is None else 2
        return self._lines >= QUEUED_LINES // share or self._characters >= QUEUED_CHARACTERS // share

    def _deliver(self) -> None:
        try:
            while (item := self._next()) is not None:
                if isinstance(item, _Event):
                    self._pass_on(item)
                elif isinstance(item, _Gap):
                    self._print(f"({item.lines:,} lines are left out here: they came faster than they could be shown)")
                else:
                    self._print(item)
        finally:
            self._ended.set()

    def _next(self) -> str | _Gap | _Event | None:
        """Wait for the next item to deliver and return it; None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closing)
            if not self._waiting:
                return None
            item = self._waiting.popleft()
            if isinstance(item, str):
                self._lines -= 1
                self._characters -= len(item)
            return item

    def _print(self, text: str) -> None:
        if self._show is None:
            return
        try:
            self._show(text)
        except Exception as error:  # for example a closed terminal, which must not fail a run
            self._show = None
            log.warning("the ranks' output is shown no more: %s", error)

    def _pass_on(self, item: _Event) -> None:
        if self._on_event is None:
            return
        try:
            self._on_event(item.rank, item.event)
        except BaseException as error:  # raised later, in the thread that called the run
            self._error = error
            self._on_event = None
            if self._on_error is not None:
                self._on_error()
