"""Encode one message between the driver and a task as bytes: a JSON object, and a body of other bytes.

Pure. Frames travel through both connections of driver and task: the control channel and the mailbox. Nothing of a frame
is ever unpickled before the sender is known to hold the run's secret.
"""

from __future__ import annotations

import json
import struct
from typing import Any

__all__ = ["MAX_BODY_BYTES", "MAX_FRAME_BYTES", "decode", "encode"]

MAX_BODY_BYTES = 1 << 20
"""A larger body travels in several frames."""

# The largest event, and a traceback's characters as JSON, stay far below this limit.
MAX_FRAME_BYTES = 8 << 20

_LENGTH = struct.Struct(">I")


def encode(message: dict[str, Any], body: bytes = b"") -> bytes:
    """Encode a message and its body as a frame."""
    text = json.dumps(message).encode()
    return b"".join((_LENGTH.pack(len(text)), text, body))


def decode(frame: bytes) -> tuple[dict[str, Any], bytes]:
    """Decode a frame into its message and its body. Raises ValueError for bytes that are not a frame."""
    if len(frame) < _LENGTH.size:
        raise ValueError(f"a frame of {len(frame)} bytes is too short")
    (length,) = _LENGTH.unpack_from(frame)
    end = _LENGTH.size + length
    if end > len(frame):
        raise ValueError(f"a frame of {len(frame)} bytes ends within its message of {length} bytes")
    message = json.loads(frame[_LENGTH.size : end])
    if not isinstance(message, dict):
        raise ValueError("a frame's message must be a JSON object")
    return message, frame[end:]
