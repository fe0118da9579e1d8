"""Frames between the driver and a task."""

import struct

import pytest

from sparkdl.launch.protocol.frame import decode, encode


@pytest.mark.parametrize("body", [b"", b"\x00\xff{}", bytes(1 << 20)])
def test_a_frame_brings_back_message_and_body(body):
    message = {"type": "line", "text": "zwölf\n"}
    assert decode(encode(message, body)) == (message, body)


@pytest.mark.parametrize(
    "frame",
    [b"", b"\x00\x00", struct.pack(">I", 9) + b"{}", struct.pack(">I", 2) + b"[]", struct.pack(">I", 2) + b"}{"],
)
def test_bytes_that_are_no_frame_are_a_value_error(frame):
    with pytest.raises(ValueError):
        decode(frame)
