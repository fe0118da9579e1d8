"""Which exceptions only say that a peer is gone."""

import pytest

from sparkdl.launch.protocol.outcome import only_lost_its_peer


def error_of(module, name, text):
    return type(name, (RuntimeError,), {"__module__": module})(text)


def horovods():
    return error_of("horovod.common.exceptions", "HorovodInternalError", "x")


def chained(outer, inner, *, hidden=False):
    try:
        try:
            raise inner
        except BaseException as error:
            raise outer from None if hidden else error
    except BaseException as error:
        return error


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (horovods(), True),
        (error_of("tensorflow.python.framework.errors_impl", "UnknownError", "Horovod has been shut down. This"), True),
        (error_of("tensorflow.python.framework.errors_impl", "UnknownError", "[x/gloo/transport/tcp/pair.cc:5]"), True),
        (error_of("tensorflow.python.framework.errors_impl", "InvalidArgumentError", "shapes differ"), False),
        (error_of("mine", "HorovodInternalError", "x"), False),
        (ConnectionResetError(104, "Connection reset by peer"), False),
        (ValueError("in /home/me/gloo/train.py"), False),
        (chained(RuntimeError("step failed"), horovods()), True),
        (chained(RuntimeError("step failed"), horovods(), hidden=True), True),
        (chained(SystemExit(1), horovods()), True),
        (chained(RuntimeError("step failed"), ValueError("boom")), False),
    ],
)
def test_only_horovods_own_errors_do(error, lost):
    assert only_lost_its_peer(error) is lost
