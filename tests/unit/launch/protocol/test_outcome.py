"""Outcomes: which rank's failure is the cause, and how it is told."""

import signal

import pytest

from sparkdl.launch.protocol.messages import Outcome
from sparkdl.launch.protocol.outcome import choose_cause, headline, is_secondary, lost_peer_error, worker_error

VALUE = Outcome(rank=0, host="a", kind="value")
STOPPED = Outcome(rank=0, host="a", kind="stopped")
USER = Outcome(rank=1, host="b", kind="exception", error_type="ValueError", message="boom\nmore", traceback="Trace\n")
LOST_PEER = Outcome(rank=2, host="a", kind="exception", error_type="UnknownError", message="shut down", lost_peer=True)
INTERNAL = Outcome(rank=3, host="a", kind="exception", error_type="HorovodInternalError", lost_peer=True)
WRAPPED = Outcome(
    rank=2,
    host="a",
    kind="exception",
    error_type="RuntimeError",
    message="step",
    traceback="HorovodInternalError: x",
    lost_peer=True,
)
OBEDIENT = Outcome(rank=2, host="a", kind="exit", code=1, lost_peer=True)
KILLED = Outcome(rank=1, host="b", kind="signal", code=signal.SIGKILL)
EXITED = Outcome(rank=1, host="b", kind="exit", code=3)
GONE = Outcome(rank=4, host="c", kind="lost")
ABORTED = Outcome(rank=5, host="c", kind="signal", code=signal.SIGABRT)
GLOO_LINES = [[], [], [], [], [], ["what():  [/tmp/gloo/transport/tcp/pair.cc:589] Read error"]]


@pytest.mark.parametrize(
    ("outcomes", "last_lines", "cause"),
    [
        ([VALUE], [], None),
        ([VALUE, STOPPED], [], None),
        ([USER, STOPPED], [], USER),
        ([LOST_PEER, USER], [], USER),
        ([USER, KILLED], [], USER),
        ([KILLED, USER], [], KILLED),
        ([INTERNAL, KILLED], [], KILLED),
        ([WRAPPED, EXITED], [], EXITED),
        ([OBEDIENT, KILLED], [], KILLED),
        ([LOST_PEER, GONE], [], GONE),
        ([LOST_PEER, INTERNAL, STOPPED], [], LOST_PEER),
        ([ABORTED, EXITED], GLOO_LINES, EXITED),
        ([ABORTED, EXITED], [], ABORTED),
    ],
)
def test_the_cause_is_the_first_failure_that_did_not_only_lose_its_peer(outcomes, last_lines, cause):
    assert choose_cause(outcomes, last_lines) == cause


@pytest.mark.parametrize(
    ("outcome", "line"),
    [
        (USER, "rank 1/8 on b failed: ValueError: boom"),
        (KILLED, "rank 1/8 on b died by signal SIGKILL (often the kernel's or the container's memory limit)"),
        (ABORTED, "rank 5/8 on c died by signal SIGABRT"),
        (EXITED, "rank 1/8 on b exited with code 3 before its function returned"),
        (GONE, "rank 4/8 on c was lost: its executor or host died, or the network to it broke"),
    ],
)
def test_a_failure_is_told_in_one_line(outcome, line):
    assert headline(outcome, 8) == line


def test_an_exception_that_is_not_horovods_is_never_secondary():
    assert not is_secondary(USER, ["Connection closed by peer"])


def test_the_error_carries_rank_host_and_traceback():
    error = worker_error(USER, 8, ["last words"])
    assert (error.rank, error.host, error.remote_traceback, error.last_lines) == (1, "b", "Trace\n", "last words")
    assert str(error) == "rank 1/8 on b failed: ValueError: boom\n\nTrace"


def test_without_a_traceback_the_last_lines_are_in_the_message():
    message = str(worker_error(EXITED, 8, ["one", "two"]))
    assert message == "rank 1/8 on b exited with code 3 before its function returned\n\nits last 2 lines:\none\ntwo"


def test_a_lost_rank_brings_what_spark_says_and_where_its_output_is():
    error = worker_error(GONE, 8, ["one"], why="ExecutorLostFailure (executor 0 exited)", log="s3://b/logs/rank-4.log")
    assert str(error) == (
        "rank 4/8 on c was lost: its executor or host died, or the network to it broke "
        "(ExecutorLostFailure (executor 0 exited))\n\nits last 1 lines:\none\n\nits whole output: s3://b/logs/rank-4.log"
    )


@pytest.mark.parametrize(
    ("returned", "silent", "line"),
    [
        (
            [0],
            [],
            "rank 0/4 on a returned while rank 2 waited in a collective operation; every rank must call the same ones",
        ),
        (
            [],
            [1, 3],
            "ranks 1, 3 of 4 on b stopped answering rank 2 in a collective operation: the network between them broke",
        ),
    ],
)
def test_where_all_failures_are_of_lost_peers_the_peers_are_named(returned, silent, line):
    error = lost_peer_error(WRAPPED, 4, {0: "a", 1: "b"}, returned=returned, silent=silent)
    assert str(error).startswith(line) and error.rank == (returned or silent)[0]
    assert "rank 2 said:\nHorovodInternalError: x" in str(error)
