"""Follow all ranks of one run on the driver: output, events, progress, outcomes, and when to stop.

Runs on the driver. Messages arrive from any thread; one thread watches.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from sparkdl.errors import LaunchError
from sparkdl.launch.config import LaunchConfig
from sparkdl.launch.driver.console import ConsoleQueue, show, shown_line
from sparkdl.launch.driver.ranks import Ranks
from sparkdl.launch.driver.stall import Beat, Stall, stalled_ranks
from sparkdl.launch.protocol import messages
from sparkdl.launch.protocol.messages import Message, Outcome
from sparkdl.launch.protocol.outcome import choose_cause, is_secondary

__all__ = ["Monitor", "OnEvent"]

OnEvent = Callable[[int, dict[str, Any]], None]
"""Take an event of a rank. Called one at a time."""

log = logging.getLogger(__name__)

LAST_LINES = 100
# Characters of a line in an error; the log file has the whole line.
LINE_CHARACTERS = 1000
# The failure of a rank that lost its peer can arrive before the peer's own failure does.
SECONDARY_GRACE_S = 3.0
# Stopping takes two seconds at most; ranks that are silent after this limit are given up.
STOP_LIMIT_S = 10.0
# A rank writes its stacks within two seconds, or not at all.
STACKS_LIMIT_S = 4.0
POLL_S = 0.5


class Monitor:
    """Hold what the driver knows about the ranks of one run. A context manager: at its end all output is delivered."""

    def __init__(
        self, size: int, launch: LaunchConfig, *, on_event: OnEvent | None, asked: threading.Event | None = None
    ) -> None:
        self._size = size
        self._launch = launch
        # Set when the ranks are to stop by themselves (graceful stop).
        self._asked = asked or threading.Event()
        self._changed = threading.Condition()
        self._console = ConsoleQueue(show, on_event, on_error=self.wake)
        self._outcomes: dict[int, Outcome] = {}
        self._beats: dict[int, Beat] = {}
        self._last_events: dict[int, float] = {}
        self._lines: list[deque[str]] = [deque(maxlen=LAST_LINES) for _ in range(size)]
        self._first_failure: float | None = None
        self._error: LaunchError | None = None
        # Ranks whose function has returned while their processes still end.
        self._ending: set[int] = set()
        self.hosts: dict[int, str] = {}
        self.stacks: dict[int, str] = {}
        self.stall: Stall | None = None

    def __enter__(self) -> Monitor:
        self._console.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._console.close()

    def receive(self, rank: int, message: Message) -> None:
        """Take one rank's message, from any thread, without waiting for the terminal or the user's function."""
        match message:
            case messages.Line(text=text):
                self._lines[rank].append(text[:LINE_CHARACTERS])
                if (line := shown_line(rank, text, self._launch.log)) is not None:
                    self._console.line(line)
                return
            case messages.Event(event=event):
                self._console.event(rank, event)
            case messages.Overrun(seconds=seconds):
                what = "rank %d was ended %g s after its function returned: threads or exit handlers of it still ran"
                log.warning(what, rank, seconds)
        with self._changed:
            self._note(rank, message, time.monotonic())
            self._changed.notify_all()

    def _note(self, rank: int, message: Message, now: float) -> None:
        match message:
            case messages.Event():
                self._last_events[rank] = now
            case messages.Started(host=host):
                self.hosts[rank] = host
                self._beats[rank] = Beat(heard_at=now)
            case messages.Beat(idle_s=idle_s, stopped=stopped):
                quiet_s = now - self._last_events.get(rank, -float("inf"))
                self._beats[rank] = Beat(heard_at=now, idle_s=min(idle_s, quiet_s), stopped=stopped)
            case messages.Returned():
                self._ending.add(rank)
            case messages.Stacks(text=text):
                self.stacks[rank] = text
            case Outcome():
                self._outcomes.setdefault(rank, message)

    def lose(self, rank: int) -> None:
        """Note that the connection to a rank broke; the rank has failed, unless its outcome is known."""
        with self._changed:
            self._outcomes.setdefault(rank, Outcome(rank=rank, host=self.hosts.get(rank, ""), kind="lost"))
            self._changed.notify_all()

    def give_up(self, error: LaunchError) -> None:
        """Make `watch` raise this error."""
        with self._changed:
            self._error = self._error or error
            self._changed.notify_all()

    def wake(self) -> None:
        """Make `watch` check the ranks again."""
        with self._changed:
            self._changed.notify_all()

    def watch(self, ranks: Ranks) -> None:
        """Wait until every rank has an outcome, or no more can come; stop all ranks once one has failed or stalled.

        Once `asked` is set, the ranks are asked to stop by themselves, and watched as before.

        Raises LaunchError if ranks have not started in time, the error that `give_up` got, and whatever `on_event`
        raised; the caller stops the ranks.
        """
        start_limit = time.monotonic() + self._launch.start_timeout_s
        stopped_at: float | None = None
        stacks_limit = 0.0
        stop_requested = False
        while True:
            with self._changed:
                if self._error:
                    raise self._error
                if len(self._outcomes) == self._size or not ranks.is_alive() or self._console.error:
                    break
                self._changed.wait(min(POLL_S, max(0.0, start_limit - time.monotonic()) or POLL_S))
                failures = self.failures
                missing = self._size - len(self.hosts.keys() | self._outcomes.keys())
            now = time.monotonic()
            if self._asked.is_set() and not stop_requested:
                stop_requested = True
                ranks.request_stop()
            if missing and not failures and now >= start_limit:
                raise LaunchError(self._start_failure(missing))
            if stopped_at is not None:
                if now > stopped_at + STOP_LIMIT_S:
                    break
            elif self._must_stop(now) or (self.stall and (now >= stacks_limit or self._stacks_are_complete())):
                stopped_at = now
                ranks.stop()
            elif self.stall is None and self._notice_stall(now):
                stacks_limit = now + STACKS_LIMIT_S
                ranks.dump_stacks()
        if self._console.error:
            raise self._console.error

    @property
    def failures(self) -> list[Outcome]:
        """The outcomes of the ranks that failed, in order of arrival."""
        return [outcome for outcome in self._outcomes.values() if outcome.failed]

    @property
    def silent(self) -> list[int]:
        """The ranks that did not end by themselves."""
        return [r for r in range(self._size) if r not in self._outcomes or self._outcomes[r].kind == "stopped"]

    @property
    def returned(self) -> list[int]:
        """The ranks whose function returned."""
        return sorted(rank for rank, outcome in self._outcomes.items() if outcome.kind == "value")

    @property
    def lost(self) -> list[int]:
        """The ranks to which the connection broke."""
        return sorted(rank for rank, outcome in self._outcomes.items() if outcome.kind == "lost")

    @property
    def complete(self) -> bool:
        """True if every rank returned a value."""
        return len(self.returned) == self._size

    @property
    def cause(self) -> Outcome | None:
        """The outcome to blame, or None."""
        return choose_cause(list(self._outcomes.values()), self._lines)

    def last_lines(self, rank: int) -> list[str]:
        """Return the last lines (at most 100) that a rank printed."""
        return list(self._lines[rank])

    def _must_stop(self, now: float) -> bool:
        with self._changed:
            if any(not is_secondary(failure, self._lines[failure.rank]) for failure in self.failures):
                return True
            if not self.failures:
                return False
            if self._first_failure is None:
                self._first_failure = now
            return now >= self._first_failure + SECONDARY_GRACE_S

    def _notice_stall(self, now: float) -> bool:
        with self._changed:
            if self.failures:
                return False
            left = self._outcomes.keys() | self._ending
            running = {rank: beat for rank, beat in self._beats.items() if rank not in left}
            idle = stalled_ranks(running, now, self._launch.stall_timeout_s)
            if idle:
                returned = sorted({*self.returned, *self._ending})
                timeout_s = self._launch.stall_timeout_s
                self.stall = Stall(beats=running, idle=idle, stall_timeout_s=timeout_s, returned=returned)
            return bool(idle)

    def _stacks_are_complete(self) -> bool:
        return self.stall is not None and self.stall.beats.keys() <= self.stacks.keys() | self._outcomes.keys()

    def _start_failure(self, missing: int) -> str:
        return (
            f"{self._size - missing} of {self._size} ranks started within "
            f"start_timeout_s={self._launch.start_timeout_s:g}; free {self._size} task slots at once (other jobs hold "
            "them), lower num_workers or raise start_timeout_s"
        )
