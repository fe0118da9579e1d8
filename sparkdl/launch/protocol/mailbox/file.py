"""The files of a mailbox: their names, their seals, what they hold, and which are to be read next.

Pure; used on the driver and in tasks. A mailbox is one flat folder for both ways: an NFS client remembers a
folder for half a minute or longer, unless it writes there itself and so learns that others did.

`rank-00003-0000000017` holds frames of rank 3; the numbers of its files have no gap. `alive-00003-0000000004` is a sign
of life of rank 3. `driver` holds all that the driver has told the ranks so far; it is replaced, under a higher number,
to tell more or to show that the driver lives.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import struct
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from sparkdl.storage import is_local

__all__ = [
    "ALIVE",
    "BYE",
    "DRIVER",
    "FRAMES",
    "PACE",
    "Name",
    "Pace",
    "Reading",
    "pack",
    "plan_reading",
    "seal",
    "silent_ranks",
    "unpack",
    "unseal",
]

DRIVER = "driver"
"""The name of the driver's one file, and the role under which it is sealed."""

FRAMES = "rank"
ALIVE = "alive"

BYE = {"type": "bye"}
"""The last message of either side."""

_NAME = re.compile(rf"({FRAMES}|{ALIVE})-(\d{{5,}})-(\d{{10,}})")
_MAC_BYTES = hashlib.sha256().digest_size
_NUMBER = struct.Struct(">Q")
_SENDER = struct.Struct(">8sI")
_LENGTH = struct.Struct(">I")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How often both sides look and speak, and when a silent one is given up."""

    first_poll_s: float = 2.0
    """The driver looks so often until it has heard a rank: most runs need no mailbox."""

    poll_s: float = 0.5
    remote_poll_s: float = 1.0
    """The same on remote storage, where each look is a request that is paid for."""

    beat_s: float = 5.0
    silence_s: float = 30.0

    write_s: float = 60.0
    """A file that could not be written for so long makes a task give up its link."""

    end_s: float = 3.0
    """At its end the driver waits so long for tasks that live to say that they write no more."""

    def poll_of(self, folder: str) -> float:
        """Seconds between two looks into this folder."""
        return self.poll_s if is_local(folder) else self.remote_poll_s


PACE = Pace()


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Name:
    """What the name of a rank's file says."""

    role: str
    """FRAMES or ALIVE; each is numbered by itself, so that a sign of life need not wait for a large file."""

    rank: int

    number: int
    """From 1."""

    def __str__(self) -> str:
        return f"{self.role}-{self.rank:05d}-{self.number:010d}"

    @classmethod
    def parse(cls, text: str) -> Name | None:
        """What a file's name says, or None for one that is no rank's."""
        match = _NAME.fullmatch(text)
        name = cls(role=match[1], rank=int(match[2]), number=int(match[3])) if match else None
        return name if str(name) == text else None  # no second way to write a number


def seal(key: bytes, role: str, rank: int, number: int, content: bytes) -> bytes:
    """A file's bytes: who holds `key` can tell by them that this content is this sender's file of this number."""
    counted = _NUMBER.pack(number)
    return b"".join((_mac(key, role, rank, counted, content), counted, content))


def unseal(key: bytes, role: str, rank: int, sealed: bytes) -> tuple[int, bytes] | None:
    """The number and the content of a file, or None if it is not what a sender with `key` wrote in this role."""
    start = _MAC_BYTES + _NUMBER.size
    if len(sealed) < start:
        return None
    counted, content = sealed[_MAC_BYTES:start], sealed[start:]
    if not hmac.compare_digest(sealed[:_MAC_BYTES], _mac(key, role, rank, counted, content)):
        return None
    return _NUMBER.unpack(counted)[0], content


def _mac(key: bytes, role: str, rank: int, counted: bytes, content: bytes) -> bytes:
    mac = hmac.new(key, _SENDER.pack(role.encode(), rank) + counted, hashlib.sha256)
    mac.update(content)
    return mac.digest()


def pack(frames: Sequence[bytes]) -> bytes:
    """Several frames as one content."""
    return b"".join(part for frame in frames for part in (_LENGTH.pack(len(frame)), frame))


def unpack(content: bytes) -> list[bytes]:
    """The frames of a content. Raises ValueError for bytes that are none."""
    frames, start = [], 0
    while start < len(content):
        if start + _LENGTH.size > len(content):
            raise ValueError(f"a content of {len(content)} bytes ends within the length of a frame")
        (length,) = _LENGTH.unpack_from(content, start)
        start += _LENGTH.size
        if start + length > len(content):
            raise ValueError(f"a content of {len(content)} bytes ends within a frame of {length} bytes")
        frames.append(content[start : start + length])
        start += length
    return frames


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What the driver does with the files that it found."""

    alive: tuple[Name, ...]
    """New signs of life, in any order."""

    frames: tuple[Name, ...]
    """Files of frames in the order to read them: of each rank by number, and the ranks take turns."""

    spent: tuple[Name, ...]
    """Read before: to be deleted."""


def plan_reading(names: Iterable[str], taken: Mapping[tuple[str, int], int], size: int) -> Reading:
    """What to read of a folder that holds `names`.

    A file of frames is read when all before it are: a listing that was made while files were written can lack one that
    is older than another that it has.

    Args:
        names: all names in the folder; those that are no rank's are passed over.
        taken: the highest number taken by role and rank; a role and rank without one begins at 1.
        size: how many ranks there are.
    """
    found = sorted(name for name in map(Name.parse, names) if name is not None and name.rank < size)
    new = [name for name in found if name.number > taken.get((name.role, name.rank), 0)]
    turns: list[tuple[int, int, Name]] = []
    following = dict(taken)
    for name in new:
        before = taken.get((name.role, name.rank), 0)
        if name.role == FRAMES and name.number == following.get((name.role, name.rank), 0) + 1:
            following[name.role, name.rank] = name.number
            turns.append((name.number - before, name.rank, name))
    return Reading(
        alive=tuple(name for name in new if name.role == ALIVE),
        frames=tuple(name for *_, name in sorted(turns)),
        spent=tuple(name for name in found if name.number <= taken.get((name.role, name.rank), 0)),
    )


def silent_ranks(
    heard: Mapping[int, float], ended: Collection[int], *, listed_at: float, silence_s: float
) -> list[int]:
    """The ranks to give up: those of whom a listing had nothing new, and nothing new for `silence_s` before it.

    `heard` are the times of the listings that had something new; a driver that itself was slow, or stopped for a while,
    blames no rank for that, since it lists again before it judges.
    """
    return [rank for rank, time in heard.items() if rank not in ended and listed_at - time > silence_s]
