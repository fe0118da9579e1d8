"""Find stalled ranks and build the error that names them.

Pure; used on the driver. The reaper of each rank reports for how long the rank has made no progress; the stacks show
where.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sparkdl.errors import WorkerError
from sparkdl.launch.protocol.outcome import RETURNED, named

__all__ = ["Beat", "Stall", "culprits", "stalled_ranks", "waits_in_collective"]

# Beats come every two seconds; a rank whose next beat is this late counts as idle since its last beat.
LATE_S = 5.0
# The innermost frame of a thread that waits for its peers is Horovod's, or TensorFlow's call of an operation; frames
# of code that TensorFlow generated ("<string>") do not count.
_FRAME = re.compile(r'^  File "(?!<)(.*)", line', re.MULTILINE)
_WAITING = ("/horovod/", "/tensorflow/python/")
_THREAD = re.compile(r"^(Current thread|Thread) 0x", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Beat:
    """Hold what is known about a running rank's progress."""

    heard_at: float
    """The time of the reaper's last beat, in seconds of the driver's monotonic clock."""

    idle_s: float = 0.0
    """Seconds for which the rank had made no progress at that time."""

    stopped: bool = False
    """True if a signal has stopped the rank's process."""

    def idle_at(self, now: float) -> float:
        """Return the seconds without progress as known now; a late beat counts as a time without progress."""
        late = now - self.heard_at
        return self.idle_s + (late if late > LATE_S else 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stall:
    """Describe a run in which a rank made no progress for too long."""

    beats: Mapping[int, Beat]
    """The running ranks' last beats when the stall was noticed."""

    idle: Sequence[int]
    """The ranks without progress."""

    stall_timeout_s: float

    returned: Sequence[int] = ()
    """The ranks whose function had returned when the stall was noticed."""

    def error(self, size: int, hosts: Mapping[int, str], stacks: Mapping[int, str]) -> WorkerError:
        """Build the error for the driver: the ranks to blame, then every rank's Python stacks, first those to blame."""
        who, kind = culprits(self.beats, self.idle, stacks), "stall"
        if self.returned and all(waits_in_collective(stacks.get(rank, "")) for rank in self.beats):
            who, kind = list(self.returned), "returned"
        first = who[0]
        headline = _headline(self, who, kind, size, hosts.get(first, ""))
        running = sorted(self.beats, key=lambda rank: (rank not in who, rank))
        pieces = [headline, *(_stacks_of(rank, stacks) for rank in running)]
        return WorkerError(
            "\n\n".join(pieces),
            rank=first,
            host=hosts.get(first, ""),
            remote_traceback=stacks.get(first, ""),
            kind=kind,
        )


def stalled_ranks(beats: Mapping[int, Beat], now: float, stall_timeout_s: float) -> list[int]:
    """Return the ranks without progress, if one has had none for `stall_timeout_s`; beats lag by some seconds."""
    idle = {rank: beat.idle_at(now) for rank, beat in beats.items()}
    if max(idle.values(), default=0.0) < stall_timeout_s:
        return []
    return sorted(rank for rank, idle_s in idle.items() if idle_s > 0 and idle_s >= stall_timeout_s - LATE_S)


def waits_in_collective(stacks: str) -> bool:
    """Tell whether a rank's main thread waits inside Horovod or TensorFlow, by faulthandler's dump of its threads.

    In the dump headings separate the threads; the main thread is the last one, its innermost frame the first line.
    """
    innermost = _FRAME.search(_THREAD.split(stacks)[-1])
    return innermost is not None and any(package in innermost[1] for package in _WAITING)


def culprits(beats: Mapping[int, Beat], idle: Sequence[int], stacks: Mapping[int, str]) -> list[int]:
    """Return the ranks that the others wait for, not the ranks that wait; at least one.

    Ranks with a stopped process are to blame, else ranks without progress and without stacks, else ranks that do not
    wait in a collective operation, though others do: first those without progress, then those that are busy with
    something else. Where all ranks wait, all ranks without progress are returned.
    """
    stopped = [rank for rank in sorted(beats) if beats[rank].stopped]
    elsewhere = [rank for rank in sorted(beats) if rank in stacks and not waits_in_collective(stacks[rank])]
    unknown = [rank for rank in idle if not stacks.get(rank)]
    idle_elsewhere = [rank for rank in elsewhere if rank in idle]
    return stopped or unknown or idle_elsewhere or elsewhere or list(idle)


def _headline(stall: Stall, who: Sequence[int], kind: str, size: int, host: str) -> str:
    names = named(who, size, host)
    limit = f"stall_timeout_s={stall.stall_timeout_s:g}"
    waiting = ", ".join(map(str, stall.idle))
    if kind == "returned":
        return f"{names} {RETURNED.format(waiting=waiting)}"
    stopped = stall.beats[who[0]].stopped
    if not stopped and any(rank not in stall.idle for rank in who):
        return (
            f"{names} did not come to the collective operation in which rank {waiting} waited "
            f"longer than {limit}: see its stack, and raise stall_timeout_s if it takes that long on purpose"
        )
    what = "its process is stopped" if stopped else "see its stack"
    return f"{names} made no progress for {limit} seconds: {what}"


def _stacks_of(rank: int, stacks: Mapping[int, str]) -> str:
    text = stacks.get(rank, "").rstrip()
    if not text:
        return f"rank {rank} did not report its stacks"
    return f"rank {rank}, the Python stacks of its threads:\n{text}"
