"""Messages between a rank, its task and the driver, and their form on the wire."""

import json
import struct

import pytest

from sparkdl.launch.protocol.messages import (
    Alive,
    Beat,
    Bye,
    Ended,
    Event,
    Exited,
    Finish,
    Hello,
    Line,
    Outcome,
    Overrun,
    Returned,
    Stacks,
    Started,
    Stop,
    Value,
    WindDown,
    decode,
    encode,
    from_data,
    to_data,
)

FAILED = {"kind": "exception", "error_type": "ValueError", "message": "boom", "traceback": "Trace\n"}
WIRE = [
    (Hello(rank=3), {"type": "hello", "rank": 3}),
    (Hello(rank=3, host="a", error="no route"), {"type": "hello", "rank": 3, "host": "a", "error": "no route"}),
    (Alive(), {"type": "alive"}),
    (Bye(), {"type": "bye"}),
    (Started(pid=7), {"type": "started", "pid": 7}),
    (Started(pid=7, host="a"), {"type": "started", "pid": 7, "host": "a"}),
    (Beat(idle_s=0.5, stopped=False), {"type": "beat", "idle_s": 0.5, "stopped": False}),
    (Line(text="zwölf\n"), {"type": "line", "text": "zwölf\n"}),
    (Event(event={"kind": "epoch", "loss": None}), {"type": "event", "event": {"kind": "epoch", "loss": None}}),
    (Stacks(), {"type": "stacks"}),
    (Stacks(text="File"), {"type": "stacks", "text": "File"}),
    (Returned(), {"type": "returned"}),
    (Overrun(seconds=10.0), {"type": "overrun", "seconds": 10.0}),
    (Ended(kind="value"), {"type": "ended", "kind": "value"}),
    (Ended(kind="exit", code=3), {"type": "ended", "kind": "exit", "code": 3}),
    (Ended(**FAILED, lost_peer=True), {"type": "ended", **FAILED, "lost_peer": True}),
    (
        Outcome(rank=1, host="b", **FAILED),
        {"type": "outcome", "outcome": {"rank": 1, "host": "b", "code": 0, "lost_peer": False, **FAILED}},
    ),
    (Exited(status=9), {"type": "exited", "status": 9}),
    (Exited(status=None), {"type": "exited", "status": None}),
    (Stop(), {"type": "stop"}),
    (Finish(), {"type": "finish"}),
    (WindDown(), {"type": "wind_down"}),
]


@pytest.mark.parametrize(("message", "data"), WIRE)
def test_a_message_has_one_form_on_the_wire(message, data):
    assert to_data(message) == data
    assert from_data(json.loads(json.dumps(data))) == decode(encode(message)) == message


@pytest.mark.parametrize("content", [b"", b"\x00\xff{}", bytes(1 << 20)])
def test_a_value_travels_outside_the_json_object(content):
    message = Value(content=content)
    assert to_data(message) == {"type": "value"}
    assert decode(encode(message)) == message


@pytest.mark.parametrize(
    "frame",
    [b"", b"\x00\x00", struct.pack(">I", 9) + b"{}", struct.pack(">I", 2) + b"[]", struct.pack(">I", 2) + b"}{"],
)
def test_bytes_that_are_no_frame_are_a_value_error(frame):
    with pytest.raises(ValueError):
        decode(frame)


@pytest.mark.parametrize(
    "data",
    [
        None,
        "stop",
        {},
        {"type": "unknown"},
        {"type": ["stop"]},
        {"type": "line"},
        {"type": "line", "text": 1},
        {"type": "line", "text": "x", "more": 1},
        {"type": "hello", "rank": "0"},
        {"type": "value", "content": "x"},
        {"type": "outcome"},
        {"type": "outcome", "outcome": {"kind": "value"}},
        {"type": "outcome", "outcome": 3},
    ],
)
def test_what_is_no_message_is_a_value_error(data):
    with pytest.raises(ValueError, match="message"):
        from_data(data)


def test_only_a_value_has_a_body():
    with pytest.raises(ValueError, match="content"):
        from_data({"type": "stop"}, b"x")
