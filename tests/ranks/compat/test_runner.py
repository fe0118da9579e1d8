"""HorovodRunner's way of running ranks, on the driver."""

import functools
import os
import threading

import pytest

from sparkdl.compat import HorovodRunner, log_to_driver
from sparkdl.errors import ConfigError, WorkerError
from sparkdl.launch.world import world

pytestmark = pytest.mark.timeout(90)


@pytest.fixture(autouse=True)
def no_gpus(monkeypatch):
    """A machine without GPUs, whatever this one has."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


def place_and(**kwargs):
    return world().rank, world().size, kwargs


def test_the_value_of_rank_0_is_returned_and_keywords_arrive():
    assert HorovodRunner(np=-2).run(place_and, x=1, main_too=[2]) == (0, 2, {"x": 1, "main_too": [2]})


def test_the_function_may_be_given_by_name_and_be_a_partial():
    assert HorovodRunner(np=-1).run(main=functools.partial(place_and, x=1)) == (0, 1, {"x": 1})


def test_only_rank_0_needs_a_value_that_pickles():
    assert HorovodRunner(np=-2).run(lambda: threading.Lock() if world().rank else "mine") == "mine"


def test_a_value_of_rank_0_that_does_not_pickle_is_its_error():
    with pytest.raises(WorkerError, match="rank 0/1 on .* failed: TypeError: cannot pickle"):
        HorovodRunner(np=-1).run(threading.Lock)


def allreduce(factor):
    import horovod.tensorflow as hvd
    import tensorflow as tf

    hvd.init()
    log_to_driver(f"rank {hvd.rank()}")
    return float(hvd.allreduce(tf.constant(factor * (hvd.rank() + 1)), op=hvd.Sum))


def test_ranks_on_the_driver_sum_with_horovod():
    assert HorovodRunner(np=-2).run(allreduce, factor=10.0) == 30.0


def test_what_the_processes_on_the_driver_print_is_shown(capsys):
    HorovodRunner(np=-2).run(lambda: print(f"hello from {world().rank}"))
    assert sorted(capsys.readouterr().err.splitlines()) == ["[rank 0] hello from 0", "[rank 1] hello from 1"]


def test_a_message_is_one_line_of_4000_characters_at_most(capsys):
    def tell():
        if world().rank == 1:
            log_to_driver("two\nlines")
            log_to_driver("x" * 5000)

    HorovodRunner(np=-2).run(tell)
    assert capsys.readouterr().err.splitlines() == ["two lines", "x" * 4000]


def test_a_message_outside_of_a_rank_is_printed(capsys):
    log_to_driver("here")
    assert capsys.readouterr().err == "here\n"


def test_a_failing_rank_is_named():
    def fail():
        if world().rank == 1:
            raise ValueError("boom")
        threading.Event().wait()

    with pytest.raises(WorkerError, match="rank 1/2 on .* failed: ValueError: boom"):
        HorovodRunner(np=-2).run(fail)


def test_a_function_that_holds_too_much_is_refused_by_its_own_name():
    table = bytes(20 << 20)

    def train():
        return table

    with pytest.raises(ConfigError, match=r"train and its arguments are .* largest part is train's variable 'table' "):
        HorovodRunner(np=-2).run(train)


def test_where_a_machine_has_no_gpus_ranks_see_none():
    assert HorovodRunner(np=-1).run(lambda: os.environ["CUDA_VISIBLE_DEVICES"]) == ""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"np": 0},
            r"np=0, all task slots, is not supported; write their number, such as "
            r"HorovodRunner\(np=spark.sparkContext.defaultParallelism\)",
        ),
        ({"np": "2"}, "np='2' must be a whole number"),
        ({"np": True}, "np=True must be a whole number"),
        (
            {"np": 2, "driver_log_verbosity": "none"},
            "driver_log_verbosity='none' must be 'all' or 'log_callback_only'",
        ),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        HorovodRunner(**options)


def test_options_go_by_name_alone():
    with pytest.raises(TypeError):
        HorovodRunner(2)


def test_what_is_no_function_is_refused():
    with pytest.raises(ConfigError, match="main='train' is not callable"):
        HorovodRunner(np=-1).run("train")
