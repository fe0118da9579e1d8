"""Name, seal, pack and read the files of a mailbox, and choose the files to read next.

Pure; used on the driver and in tasks. A mailbox is one flat folder for both directions: an NFS client caches a
folder for half a minute or longer, unless the client writes there itself and so learns that others did.

`rank-00003-0000000017` holds frames of rank 3; the numbers of its files have no gap. `alive-00003-0000000004` is a sign
of life of rank 3. `driver` holds all messages of the driver to the ranks so far; the driver replaces the file, under a
higher number, to add messages or to show that it lives.
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

_NAME = re.compile(rf"({FRAMES}|{ALIVE})-(\d{{5,}})-(\d{{10,}})")
_MAC_BYTES = hashlib.sha256().digest_size
_NUMBER = struct.Struct(">Q")
_SENDER = struct.Struct(">8sI")
_LENGTH = struct.Struct(">I")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Set how often both sides read and write, and when a silent side counts as lost."""

    first_poll_s: float = 2.0
    """Seconds between the driver's looks until a first rank has written: most runs need no mailbox."""

    poll_s: float = 0.5
    remote_poll_s: float = 1.0
    """Seconds between two looks on remote storage, where each look is a request that costs."""

    beat_s: float = 5.0
    silence_s: float = 30.0

    write_s: float = 60.0
    """A task gives up its link if it could not write a file for this time."""

    end_s: float = 3.0
    """At its end the driver waits this long for living tasks to say that they write no more."""

    def poll_of(self, folder: str) -> float:
        """Return the seconds between two looks into this folder."""
        return self.poll_s if is_local(folder) else self.remote_poll_s


PACE = Pace()


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Name:
    """Hold what the name of a rank's file says: its role, rank and number."""

    role: str
    """FRAMES or ALIVE; each role is numbered separately, so that a sign of life need not wait for a large file."""

    rank: int

    number: int
    """From 1."""

    def __str__(self) -> str:
        return f"{self.role}-{self.rank:05d}-{self.number:010d}"

    @classmethod
    def parse(cls, text: str) -> Name | None:
        """Parse a file's name; None if the file is not a rank's."""
        match = _NAME.fullmatch(text)
        name = cls(role=match[1], rank=int(match[2]), number=int(match[3])) if match else None
        return name if str(name) == text else None  # a number has one spelling alone


def seal(key: bytes, role: str, rank: int, number: int, content: bytes) -> bytes:
    """Return a file's bytes, which prove to a holder of `key` the sender, the number and the content."""
    counted = _NUMBER.pack(number)
    return b"".join((_mac(key, role, rank, counted, content), counted, content))


def unseal(key: bytes, role: str, rank: int, sealed: bytes) -> tuple[int, bytes] | None:
    """Return the number and the content of a file, or None if no sender with `key` wrote the file in this role."""
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
    """Pack several frames into one content."""
    return b"".join(part for frame in frames for part in (_LENGTH.pack(len(frame)), frame))


def unpack(content: bytes) -> list[bytes]:
    """Unpack the frames of a content. Raises ValueError for bytes that are not frames."""
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
    """List what the driver does with the files that it found."""

    alive: tuple[Name, ...]
    """New signs of life, in any order."""

    frames: tuple[Name, ...]
    """Files of frames in the order to read them: by number within a rank, and the ranks take turns."""

    spent: tuple[Name, ...]
    """Files that were read before and are to be deleted."""


def plan_reading(names: Iterable[str], taken: Mapping[tuple[str, int], int], size: int) -> Reading:
    """Choose the files to read in a folder that holds `names`.

    A file of frames is read only after all files before it: a listing made while files are written can lack an older
    file and have a newer one.

    Args:
        names: all names in the folder; names that are not of a rank's file are ignored.
        taken: the highest number taken, by role and rank; a role and rank that is missing begins at 1.
        size: the number of ranks.
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
    """Return the ranks that are lost: the listing had no new file of them, nor had the listings of `silence_s` before.

    `heard` holds the time of the last listing that had a new file of the rank. A driver that itself was slow, or
    stopped for a while, blames no rank for that, since the driver lists the folder again before it judges.
    """
    return [rank for rank, time in heard.items() if rank not in ended and listed_at - time > silence_s]
