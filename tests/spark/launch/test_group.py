"""A worker group as one barrier job of a Spark session."""

import os
import signal
import threading
import time

import pytest

import sparkdl
from groups import age_model, allreduce
from paths import FIXTURES
from processes import is_alive, wait_until
from sparkdl import LaunchConfig, WorkerGroup
from sparkdl.errors import WorkerError
from sparkdl.launch.run import launch_ranks
from sparkdl.launch.worker import graceful_stop
from sparkdl.launch.worker.emit import emit
from sparkdl.launch.world import world

pytestmark = pytest.mark.timeout(180)
TWO = LaunchConfig(num_workers=2, log="errors")


@pytest.fixture
def group(spark):
    with WorkerGroup(TWO) as group:
        yield group


def jobs_of(spark):
    """The descriptions of the jobs that run."""
    tracker, store = spark.sparkContext._jsc.sc().statusTracker(), spark.sparkContext._jsc.sc().statusStore()
    return [store.job(job).description().get() for job in tracker.getActiveJobIds()]


def rank_and_parents():
    """The rank, its process, its reaper, and the fork server."""
    with open(f"/proc/{os.getppid()}/stat") as file:
        fork_server = int(file.read().rsplit(")", 1)[1].split()[1])
    with open(f"/proc/{fork_server}/stat") as file:
        worker = int(file.read().rsplit(")", 1)[1].split()[1])
    return {"rank": world().rank, "pid": os.getpid(), "reaper": os.getppid(), "server": fork_server, "worker": worker}


def test_calls_from_any_thread_share_one_job_whose_slots_and_name_are_seen(spark, group) -> None:
    first, second = (sparkdl.run(rank_and_parents, launch=group) for _ in range(2))
    assert [found["rank"] for found in first] == [0, 1]
    for name, same in (("worker", True), ("server", True), ("pid", False), ("reaper", False)):
        assert all((one[name] == other[name]) == same for one, other in zip(first, second, strict=True)), name
    assert jobs_of(spark) == ["sparkdl worker group: 2 ranks"]
    assert sparkdl.run(allreduce, 1, launch=group) == [3.0, 3.0]
    values = []
    thread = threading.Thread(target=lambda: values.extend(sparkdl.run(bytes, 3 << 20, launch=group)))
    thread.start()
    thread.join(60)
    assert values == [bytes(3 << 20)] * 2
    big = bytes(5 << 20)  # a function of several frames
    assert sparkdl.run(lambda: len(big), launch=group) == [5 << 20] * 2
    group.close()
    assert jobs_of(spark) == []
    wait_until(lambda: not any(is_alive(found["server"]) for found in first))


def test_another_job_of_the_session_gets_the_slots(spark, group) -> None:
    (before, _) = sparkdl.run(rank_and_parents, launch=group)
    assert spark.range(100, numPartitions=3).count() == 100
    wait_until(lambda: not is_alive(before["server"]))
    assert sparkdl.run(allreduce, 2, launch=group) == [5.0, 5.0]
    assert jobs_of(spark) == ["sparkdl worker group: 2 ranks"]


def wait_to_be_asked():
    limit = time.monotonic() + 30
    while not graceful_stop.is_asked() and time.monotonic() < limit:
        time.sleep(0.05)
    return graceful_stop.is_asked()


def test_a_stop_that_is_asked_for_before_the_ranks_are_there_reaches_them(group) -> None:
    asked = threading.Event()
    asked.set()
    assert launch_ranks(wait_to_be_asked, launch=group, asked=asked) == [True, True]
    assert launch_ranks(wait_to_be_asked, launch=group, asked=asked) == [True, True]
    assert sparkdl.run(graceful_stop.is_asked, launch=group) == [False, False]


def die_on_rank_1(death):
    found = rank_and_parents()
    emit(found)
    if found["rank"] == 1:
        if death == "exception":
            raise ValueError("boom")
        if death == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        os.kill(found[death], signal.SIGKILL)
    limit = time.monotonic() + 60
    while time.monotonic() < limit:  # this rank makes progress
        pass


@pytest.mark.parametrize(
    ("death", "line"),
    [
        pytest.param("exception", "rank 1/2 on .* failed: ValueError: boom", marks=pytest.mark.soak),
        pytest.param("pid", "rank 1/2 on .* died by signal SIGKILL", marks=pytest.mark.soak),
        pytest.param("reaper", "rank 1/2 on .* died by signal SIGKILL", marks=pytest.mark.soak),
        pytest.param("server", "rank 1/2 on .* died by signal SIG(KILL|TERM)", marks=pytest.mark.soak),
        ("worker", "rank 1/2 on .* was lost"),
        pytest.param("stop", "rank 1/2 on .* made no progress .*: its process is stopped", marks=pytest.mark.soak),
    ],
)
def test_a_call_that_fails_brings_its_cause_and_the_next_call_runs(spark, death, line) -> None:
    def assert_dies():
        found = {}
        with pytest.raises(WorkerError, match=line) as caught:
            launch_ranks(
                die_on_rank_1, (death,), launch=group, on_event=lambda rank, event: found.update({rank: event})
            )
        assert caught.value.rank == 1
        started = [event[name] for event in found.values() for name in ("pid", "reaper", "server")]
        wait_until(lambda: not any(map(is_alive, started)))

    with WorkerGroup(LaunchConfig(num_workers=2, log="errors", stall_timeout_s=3)) as group:
        assert_dies()
        assert sparkdl.run(allreduce, 1, launch=group) == [3.0, 3.0]
        assert_dies()
        assert sparkdl.run(allreduce, 2, launch=group) == [5.0, 5.0]


def test_a_job_that_somebody_cancels_between_calls_is_started_again(spark, group) -> None:
    (before, _) = sparkdl.run(rank_and_parents, launch=group)
    spark.sparkContext.cancelAllJobs()
    wait_until(lambda: not jobs_of(spark))
    assert sparkdl.run(allreduce, 1, launch=group) == [3.0, 3.0]
    wait_until(lambda: not is_alive(before["server"]))


@pytest.mark.soak
def test_fits_of_a_group_have_the_bits_of_fits_in_new_ranks(group, tmp_path) -> None:
    dataset = sparkdl.open_dataset(str(FIXTURES / "dataset-v1"))

    def fit(name, launch):
        config = sparkdl.TrainConfig(run_dir=str(tmp_path / name), epochs=2, global_batch_size=7, seed=5)
        result = sparkdl.fit(age_model, dataset, config, launch=launch)
        assert sorted(path.name for path in (tmp_path / name / "logs").rglob("rank*")) != []
        return [[row[key] for key in ("epoch", "loss", "mae", "lr")] for row in result.history], sparkdl.evaluate(
            result.model_dir, dataset, "train", launch=launch
        )

    alone = fit("alone", TWO)
    assert fit("first", group) == alone and fit("second", group) == alone
