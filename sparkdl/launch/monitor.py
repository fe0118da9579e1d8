"""Follow all ranks of one run on the driver: output, events, outcomes, and when to stop.

Runs on the driver. Messages arrive from any thread; one thread watches.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from tqdm import tqdm

from sparkdl.errors import LaunchError
from sparkdl.launch.outcome import Outcome, choose_cause, is_secondary

__all__ = ["Monitor", "OnEvent", "shown_line"]

OnEvent = Callable[[int, dict[str, Any]], None]

LAST_LINES = 100
# A rank that lost its peer can be heard before the peer's own failure is.
SECONDARY_GRACE_S = 3.0
# Stopping takes two seconds at most; ranks that are silent after this are given up.
STOP_LIMIT_S = 10.0
POLL_S = 1.0


def shown_line(rank: int, text: str, log: str) -> str | None:
    """The line to show on the driver's terminal under this `LaunchConfig.log`, or None."""
    if log == "all":
        return f"[rank {rank}] {text}"
    return text if log == "rank0" and rank == 0 else None


class Monitor:
    """What the driver knows about the ranks of one run."""

    def __init__(self, size: int, *, log: str, on_event: OnEvent | None) -> None:
        self._size = size
        self._log = log
        self._on_event = on_event
        self._changed = threading.Condition()
        self._telling = threading.Lock()
        self._outcomes: dict[int, Outcome] = {}
        self._hosts: dict[int, str] = {}
        self._lines: list[deque[str]] = [deque(maxlen=LAST_LINES) for _ in range(size)]
        self._callback_error: BaseException | None = None
        self._first_failure: float | None = None

    def receive(self, rank: int, message: dict[str, Any]) -> None:
        """Take one rank's message, from any thread."""
        kind = message["type"]
        if kind == "line":
            self._show(rank, message["text"])
        elif kind == "event":
            self._tell(rank, message["event"])
        elif kind == "started":
            with self._changed:
                self._hosts[rank] = message.get("host", "")
                self._changed.notify_all()
        elif kind == "outcome":
            self._settle(Outcome.from_data(message["outcome"]))

    def lose(self, rank: int) -> None:
        """Take note that the connection to a rank broke; it failed, unless its outcome is known."""
        self._settle(Outcome(rank=rank, host=self._hosts.get(rank, ""), kind="lost"))

    def wake(self) -> None:
        """Have `watch` look again."""
        with self._changed:
            self._changed.notify_all()

    def watch(self, *, stop: Callable[[], None], alive: Callable[[], bool], start_timeout_s: float) -> None:
        """Return when every rank has an outcome, or no more can come; stop all ranks once one has failed.

        Raises LaunchError if ranks have not started in time, and whatever `on_event` raised; the caller stops them.
        """
        start_limit = time.monotonic() + start_timeout_s
        stop_time: float | None = None
        while True:
            with self._changed:
                if len(self._outcomes) == self._size or not alive() or self._callback_error:
                    break
                self._changed.wait(min(POLL_S, max(0.0, start_limit - time.monotonic()) or POLL_S))
                failures = self.failures
                missing = self._size - len(self._hosts.keys() | self._outcomes.keys())
            now = time.monotonic()
            if missing and not failures and now >= start_limit:
                raise LaunchError(self._start_failure(missing, start_timeout_s))
            if stop_time is None and self._must_stop(now):
                stop_time = now
                stop()
            if stop_time is not None and now > stop_time + STOP_LIMIT_S:
                break
        if self._callback_error:
            raise self._callback_error

    @property
    def failures(self) -> list[Outcome]:
        """The ranks that failed, in order of arrival."""
        return [outcome for outcome in self._outcomes.values() if outcome.failed]

    @property
    def silent(self) -> list[int]:
        """The ranks that did not end by themselves."""
        return [r for r in range(self._size) if r not in self._outcomes or self._outcomes[r].kind == "stopped"]

    @property
    def complete(self) -> bool:
        """Whether every rank returned a value."""
        return len(self._outcomes) == self._size and all(o.kind == "value" for o in self._outcomes.values())

    @property
    def cause(self) -> Outcome | None:
        """The outcome to blame, or None."""
        return choose_cause(list(self._outcomes.values()), self._lines)

    def last_lines(self, rank: int) -> list[str]:
        """The last lines (at most 100) that a rank printed."""
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

    def _start_failure(self, missing: int, start_timeout_s: float) -> str:
        return (
            f"{self._size - missing} of {self._size} ranks started within start_timeout_s={start_timeout_s:g}; "
            f"free {self._size} task slots at once (other jobs hold them), lower num_workers or raise start_timeout_s"
        )

    def _settle(self, outcome: Outcome) -> None:
        with self._changed:
            self._outcomes.setdefault(outcome.rank, outcome)
            self._changed.notify_all()

    def _show(self, rank: int, text: str) -> None:
        with self._telling:
            self._lines[rank].append(text)
            line = shown_line(rank, text, self._log)
            if line is not None:
                # Above a progress bar, if there is one.
                tqdm.write(line, file=sys.stderr)
                sys.stderr.flush()

    def _tell(self, rank: int, event: dict[str, Any]) -> None:
        if self._on_event is None:
            return
        try:
            with self._telling:
                self._on_event(rank, event)
        except BaseException as error:  # it belongs to the caller of the run, not to this thread
            with self._changed:
                self._callback_error = self._callback_error or error
                self._changed.notify_all()
