"""Define the messages between a rank's process, its task and the driver, and their form on the wire.

Pure; used on the driver, in tasks and in rank processes. On the pipes of one host a message is a JSON object in a line;
between hosts it is a frame: the same object, and a body of other bytes. Nothing of a message is ever unpickled before
the sender is known to hold the run's secret.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

__all__ = [
    "MAX_BODY_BYTES", "MAX_FRAME_BYTES", "Alive", "Beat", "Bye", "Call", "Ended", "Event", "Exited", "Finish",
    "Hello", "Kind", "Line", "Message", "Outcome", "Overrun", "Ready", "Returned", "Stacks", "Started", "Stop",
    "Value", "WindDown", "decode", "encode", "from_data", "to_data",
]  # fmt: skip

MAX_BODY_BYTES = 1 << 20
"""A larger value travels in several messages."""

# The largest event, and a traceback's characters as JSON, stay far below this limit.
MAX_FRAME_BYTES = 8 << 20

Kind = Literal["value", "exception", "exit", "signal", "lost", "stopped"]
"""value: the function returned; exception: the function raised; exit, signal: the process ended before its function
returned; lost: the connection to the rank broke; stopped: the launcher ended the rank, because another failed."""

_LENGTH = struct.Struct(">I")


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """Open a task's connection; through the mailbox, say which error closed the control channel to this host."""

    rank: int
    host: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Alive:
    """Show that the sender lives."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bye:
    """End the mailbox: the last message of either side."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """Report that a rank's process runs; its launcher adds the host."""

    pid: int
    host: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Beat:
    """Report the seconds that a rank has made no progress, and whether a signal has stopped its process."""

    idle_s: float
    stopped: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """Carry a line that a rank printed."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Carry what a rank's function emitted."""

    event: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stacks:
    """From the driver: ask a rank for the Python stacks of its threads. To the driver: carry the stacks."""

    text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Returned:
    """Report that a rank's function has returned while its process still ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Overrun:
    """Report that a rank's process was ended this long after its function had returned."""

    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """Carry the next bytes of a rank's pickled value or error, or of a call's function, outside the JSON object."""

    content: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """Report how a call of the function ended, as the rank's process knows it."""

    kind: Kind

    code: int = 0
    """The exit code or the signal's number."""

    error_type: str = ""
    message: str = ""
    traceback: str = ""

    lost_peer: bool = False
    """True if the rank's exception says that the rank only lost a peer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome(Ended):
    """Describe how one rank ended."""

    rank: int
    host: str

    @property
    def failed(self) -> bool:
        """True if the rank failed by itself."""
        return self.kind not in ("value", "stopped")


@dataclass(frozen=True, slots=True, kw_only=True)
class Exited:
    """Report the status of a rank's process, from its reaper; None if the process could not be ended."""

    status: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """Order a task to end its rank at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finish:
    """Tell a task that all outcomes of a call are known, or that no call will come: it may leave, or be ready again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WindDown:
    """Ask a rank for a graceful stop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """Report that a task of a worker group waits for a call; the task of rank 0 serves the call's rendezvous."""

    rendezvous: int
    """The port of the rendezvous; 0 for other ranks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """Order a task of a worker group to run its rank; the pickled function follows in `Value`s."""

    rendezvous: int
    size: int
    """Bytes of the pickled function with its arguments."""

    log_folder: str = ""
    modules: list[str]
    """The modules to import before the rank is forked."""


Message = (
    Hello | Alive | Bye | Started | Beat | Line | Event | Stacks | Returned | Overrun | Value | Ended | Outcome | Exited
    | Stop | Finish | WindDown | Ready | Call
)  # fmt: skip

_WORDS: dict[type, str] = {kind: re.sub(r"\B([A-Z])", r"_\1", kind.__name__).lower() for kind in get_args(Message)}
_KINDS: dict[str, Callable[..., Message]] = {word: kind for kind, word in _WORDS.items()}
# By annotation; other annotations, and what a user's event holds, are not checked.
_TYPES: dict[Any, Any] = {
    "int": int, "int | None": (int, type(None)), "float": (int, float), "bool": bool, "str": str, "bytes": bytes,
    "list[str]": list,
}  # fmt: skip


def to_data(message: Message) -> dict[str, Any]:
    """Return a message as a JSON object; fields at their defaults, and bytes, are left out."""
    if isinstance(message, Outcome):
        return {"type": "outcome", "outcome": asdict(message)}
    values = ((field, getattr(message, field.name)) for field in fields(message) if field.type != "bytes")
    return {"type": _WORDS[type(message)], **{field.name: value for field, value in values if value != field.default}}


def from_data(data: Any, content: bytes = b"") -> Message:
    """Make the message of a JSON object and a body. Raises ValueError for an unknown or malformed message."""
    try:
        kind = _KINDS[data["type"]]
        values = data["outcome"] if kind is Outcome else {name: data[name] for name in data if name != "type"}
        message = kind(**values, **({"content": content} if kind is Value or content else {}))
    except (KeyError, TypeError) as error:
        raise ValueError(f"a message is unknown or malformed: {type(error).__name__}: {error}") from error
    for field in fields(message):
        if not isinstance(getattr(message, field.name), _TYPES.get(field.type, object)):
            raise ValueError(f"a message is malformed: {field.name} of {data['type']!r} must be {field.type}")
    return message


def encode(message: Message) -> bytes:
    """Encode a message as a frame."""
    text = json.dumps(to_data(message)).encode()
    return b"".join((_LENGTH.pack(len(text)), text, message.content if isinstance(message, Value) else b""))


def decode(frame: bytes) -> Message:
    """Decode a frame. Raises ValueError for bytes that are not a frame of a known message."""
    if len(frame) < _LENGTH.size:
        raise ValueError(f"a frame of {len(frame)} bytes is too short")
    (length,) = _LENGTH.unpack_from(frame)
    end = _LENGTH.size + length
    if end > len(frame):
        raise ValueError(f"a frame of {len(frame)} bytes ends within its message of {length} bytes")
    return from_data(json.loads(frame[_LENGTH.size : end]), frame[end:])
