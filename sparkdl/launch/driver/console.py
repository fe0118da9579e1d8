"""Between the threads that hear the ranks and what may be slow: the terminal, and the user's `on_event`.

Runs on the driver. A terminal that is not read must not stop the ranks, nor hide that one of them failed.
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
"""Lines that may wait; what comes beyond them is left out until half of them are shown."""

# A rank that prints without line ends sends lines of 64 KiB.
QUEUED_CHARACTERS = 64 << 20


@dataclass(slots=True)
class _Gap:
    """Where lines were left out."""

    lines: int = 0


@dataclass(frozen=True, slots=True)
class _Event:
    rank: int
    event: dict[str, Any]


class ConsoleQueue:
    """Delivers lines and events in order, in a thread of its own. A context manager; at its end all is delivered.

    Args:
        show: shows a line. Should it raise, nothing more is shown.
        on_event: called as `on_event(rank, event)`, or None. Should it raise, it gets no more events.
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
        """What `on_event` raised, or None."""
        return self._error

    def line(self, text: str) -> None:
        """Show a line, or count it as left out if too many wait. Returns at once; nothing happens after `close`."""
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
        """Pass on an event. Returns at once; nothing happens after `close`."""
        with self._changed:
            if not self._closing and self._on_event is not None:
                self._waiting.append(_Event(rank, event))
                self._changed.notify()

    def close(self) -> None:
        """Return when all was delivered. It takes as long as `show` and `on_event` do.

        Who cannot wait may interrupt it: then the thread ends after the call that it is in, and the rest is forgotten.
        """
        with self._changed:
            self._closing = True
            self._changed.notify()
        try:
            # Not the thread's own join: one that was interrupted takes the thread for ended.
            self._ended.wait()
            self._thread.join()
        except BaseException:  # KeyboardInterrupt
            with self._changed:
                self._waiting.clear()
            raise

    def _is_full(self) -> bool:
        # Half: a line about lines that were left out, for every line that is shown, would help nobody.
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
        """The next to deliver; None at the end."""
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
        except Exception as error:  # a closed terminal, say: no reason to fail a run
            self._show = None
            log.warning("the ranks' output is shown no more: %s", error)

    def _pass_on(self, item: _Event) -> None:
        if self._on_event is None:
            return
        try:
            self._on_event(item.rank, item.event)
        except BaseException as error:  # it belongs to the caller of the run, not to this thread
            self._error = error
            self._on_event = None
            if self._on_error is not None:
                self._on_error()
