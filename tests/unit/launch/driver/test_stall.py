"""Which ranks hold up a run, by their beats and stacks."""

import pytest

from sparkdl.launch.driver.stall import Beat, Stall, culprits, stalled_ranks, waits_in_collective

ELSEWHERE = """\
Thread 0x00007f01 (most recent call first):
  File "/x/site-packages/horovod/common/basics.py", line 3 in poll
  File "/usr/lib/python3.11/threading.py", line 975 in run

Current thread 0x00007f02 (most recent call first):
  File "/home/me/train.py", line 12 in augment
  File "/x/site-packages/tensorflow/python/eager/execute.py", line 53 in quick_execute
  File "/home/me/train.py", line 30 in main
  File "/home/me/train.py", line 31 in main
  File "/x/sparkdl/launch/worker/rank.py", line 99 in call
"""
IN_ALLREDUCE = """\
Thread 0x00007f02 (most recent call first):
  File "<string>", line 80 in horovod_allreduce
  File "/x/site-packages/horovod/tensorflow/mpi_ops.py", line 122 in _allreduce
  File "/home/me/train.py", line 12 in step
"""
IN_COMPILED = """\
Current thread 0x00007f02 (most recent call first):
  File "/x/site-packages/tensorflow/python/eager/execute.py", line 53 in quick_execute
  File "/x/site-packages/keras/src/trainer.py", line 371 in fit
"""


def beat(idle_s=0.0, *, stopped=False, heard_at=100.0):
    return Beat(heard_at=heard_at, idle_s=idle_s, stopped=stopped)


@pytest.mark.parametrize(
    ("beats", "stalled"),
    [
        ({0: beat(2), 1: beat(9.9)}, []),
        ({0: beat(2), 1: beat(10)}, [1]),
        ({1: beat(11), 0: beat(12)}, [0, 1]),
        ({0: beat(10), 1: beat(6), 2: beat(4)}, [0, 1]),  # all that may be idle for as long: beats lag behind
        ({0: beat(6, heard_at=96)}, []),  # a beat may be some seconds old
        ({0: beat(0, heard_at=90)}, [0]),  # but who says nothing makes no progress
        ({}, []),
    ],
)
def test_ranks_without_progress_for_the_timeout_are_stalled(beats, stalled):
    assert stalled_ranks(beats, 100.0, 10) == stalled


def test_an_endless_timeout_stalls_nobody():
    assert stalled_ranks({0: beat(1e9)}, 100.0, float("inf")) == []


@pytest.mark.parametrize(
    ("stacks", "waits"), [(IN_ALLREDUCE, True), (IN_COMPILED, True), (ELSEWHERE, False), ("", False)]
)
def test_the_main_threads_innermost_frames_tell_whether_it_waits_for_peers(stacks, waits):
    assert waits_in_collective(stacks) is waits


@pytest.mark.parametrize(
    ("beats", "idle", "stacks", "who"),
    [
        # a stopped process, though its stack says that it waits
        ({0: beat(20), 1: beat(20, stopped=True)}, [0, 1], {0: IN_ALLREDUCE, 1: IN_ALLREDUCE}, [1]),
        ({0: beat(20), 1: beat(2, stopped=True)}, [0], {0: IN_ALLREDUCE, 1: ELSEWHERE}, [1]),
        # one that does not even tell its stack
        ({0: beat(20), 1: beat(20)}, [0, 1], {0: IN_ALLREDUCE}, [1]),
        # asleep elsewhere while the other waits
        ({0: beat(20), 1: beat(20)}, [0, 1], {0: IN_COMPILED, 1: ELSEWHERE}, [1]),
        # asleep, while the other computes and has not come to wait yet
        ({0: beat(20), 1: beat(0)}, [0], {0: ELSEWHERE, 1: ELSEWHERE}, [0]),
        # busy for ever, while the other waits
        ({0: beat(20), 1: beat(0)}, [0], {0: IN_ALLREDUCE, 1: ELSEWHERE}, [1]),
        # all wait in different operations
        ({0: beat(20), 1: beat(20)}, [0, 1], {0: IN_ALLREDUCE, 1: IN_COMPILED}, [0, 1]),
    ],
)
def test_who_holds_up_the_run(beats, idle, stacks, who):
    assert culprits(beats, idle, stacks) == who


def test_the_error_names_the_culprit_first_and_shows_every_ranks_stacks():
    stall = Stall(beats={0: beat(20), 1: beat(20, stopped=True)}, idle=[0, 1], stall_timeout_s=20)
    error = stall.error(2, {0: "a", 1: "b"}, {0: IN_ALLREDUCE, 1: ELSEWHERE})
    assert str(error).splitlines()[0] == (
        "rank 1/2 on b made no progress for stall_timeout_s=20 seconds: its process is stopped"
    )
    assert (error.rank, error.host, error.remote_traceback) == (1, "b", ELSEWHERE)
    assert str(error).index("in augment") < str(error).index("in horovod_allreduce")


def test_a_rank_that_returned_is_named_where_all_others_wait():
    stall = Stall(beats={0: beat(20), 2: beat(20)}, idle=[0, 2], stall_timeout_s=20, returned=[1])
    error = stall.error(3, {0: "a", 1: "b", 2: "b"}, {0: IN_ALLREDUCE, 2: IN_COMPILED})
    assert str(error).startswith("rank 1/3 on b returned while rank 0, 2 waited in a collective operation")
    assert (error.rank, error.kind) == (1, "returned") and "rank 2, the Python stacks" in str(error)
    elsewhere = stall.error(3, {0: "a", 1: "b", 2: "b"}, {0: IN_ALLREDUCE, 2: ELSEWHERE})
    assert (elsewhere.rank, elsewhere.kind) == (2, "stall")


def test_a_busy_rank_that_others_wait_for_is_told_apart_from_an_idle_one():
    stall = Stall(beats={0: beat(20), 1: beat(0)}, idle=[0], stall_timeout_s=20)
    error = stall.error(2, {0: "a", 1: "b"}, {0: IN_ALLREDUCE, 1: ELSEWHERE})
    assert str(error).startswith(
        "rank 1/2 on b did not come to the collective operation in which rank 0 waited longer than "
        "stall_timeout_s=20: see its stack"
    )
