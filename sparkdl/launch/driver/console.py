"""Print rank output and call `on_event` from a background thread, so that neither can stall the ranks.

Runs on the driver. A terminal that nobody reads must not stop the ranks, nor hide that one of them failed.
"""

from __future__ import annotations

import logging
import queue
import sys
import threading
from collections.abc import Callable
from typing import Any

from tqdm import tqdm

__all__ = ["ConsoleQueue", "show", "shown_line"]

log = logging.getLogger(__name__)

QUEUED_LINES = 10_000
"""Lines that may wait; further lines are left out until half of the waiting ones are shown."""

# A rank that prints without line ends sends lines of 64 KiB.
QUEUED_CHARACTERS = 64 << 20


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
        on_error: Callable[[], None] = lambda: None,
    ) -> None:
        self._show: Callable[[str], None] | None = show
        self._on_event = on_event
        self._on_error = on_error
        self.error: BaseException | None = None
        """The error that `on_event` raised, or None."""
        # Lines, events with their ranks, and None at the end. The lines alone are limited: every event is delivered.
        self._waiting: queue.SimpleQueue[str | tuple[int, dict[str, Any]] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._lines = self._characters = self._left_out = 0
        self._closing = self._interrupted = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._deliver, name="console", daemon=True)

    def __enter__(self) -> ConsoleQueue:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def line(self, text: str) -> None:
        """Queue a line, or count it as left out if too many wait. Returns at once; nothing happens after `close`."""
        with self._lock:
            # Half of the limit after a gap: else every line that is shown would be followed by a line about a gap.
            share = 2 if self._left_out else 1
            if self._lines >= QUEUED_LINES // share or self._characters >= QUEUED_CHARACTERS // share:
                self._left_out += 1
            elif not self._closing:
                self._put_gap()
                self._put_line(text)

    def event(self, rank: int, event: dict[str, Any]) -> None:
        """Queue an event. Returns at once; nothing happens after `close`."""
        with self._lock:
            if not self._closing:
                self._waiting.put((rank, event))

    def close(self) -> None:
        """Wait until all is delivered: as long as the calls of `show` and `on_event` take.

        A caller that cannot wait may interrupt `close`: then the thread ends after the call that it is in, and the rest
        is dropped.
        """
        with self._lock:
            if not self._closing:
                self._put_gap()
                self._waiting.put(None)
            self._closing = True
        try:
            # Not the thread's own join: an interrupted join takes the thread for ended.
            self._ended.wait()
            self._thread.join()
        except BaseException:  # KeyboardInterrupt
            self._interrupted = True
            raise

    def _put_line(self, text: str) -> None:
        self._lines += 1
        self._characters += len(text)
        self._waiting.put(text)

    def _put_gap(self) -> None:
        if self._left_out:
            self._put_line(f"({self._left_out:,} lines are left out here: they came faster than they could be shown)")
            self._left_out = 0

    def _deliver(self) -> None:
        try:
            while (item := self._waiting.get()) is not None and not self._interrupted:
                if isinstance(item, str):
                    with self._lock:
                        self._lines -= 1
                        self._characters -= len(item)
                    self._print(item)
                else:
                    self._pass_on(*item)
        finally:
            self._ended.set()

    def _print(self, text: str) -> None:
        if self._show is None:
            return
        try:
            self._show(text)
        except Exception as error:  # for example a closed terminal, which must not fail a run
            self._show = None
            log.warning("the ranks' output is shown no more: %s", error)

    def _pass_on(self, rank: int, event: dict[str, Any]) -> None:
        if self._on_event is None:
            return
        try:
            self._on_event(rank, event)
        except BaseException as error:  # raised later, in the thread that called the run
            self.error = error
            self._on_event = None
            self._on_error()


def shown_line(rank: int, text: str, log: str) -> str | None:
    """Return the line to show on the driver's terminal under this `LaunchConfig.log`, or None."""
    if log == "all":
        return f"[rank {rank}] {text}"
    return text if log == "rank0" and rank == 0 else None


def show(line: str) -> None:
    """Print a line on the driver's terminal, above a progress bar that is shown."""
    tqdm.write(line, file=sys.stderr)
    sys.stderr.flush()
