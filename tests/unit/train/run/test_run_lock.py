"""One driver at a time trains a run; one that died is succeeded."""

import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sparkdl import CheckpointError
from sparkdl.train.run import run_lock
from sparkdl.train.run.run_lock import RunLock

DIES = """
import os, sys
from sparkdl.train.run.run_lock import RunLock
RunLock("run", sys.argv[1]).__enter__()
os._exit(9)
"""


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    monkeypatch.setattr(RunLock, "interval_s", 0.05)
    monkeypatch.setattr(run_lock, "POLL_S", 0.02)
    monkeypatch.setattr(RunLock, "expiry_s", 2.0)


@pytest.fixture
def file(tmp_path):
    return str(tmp_path / "driver.json")


def test_it_is_held_and_given_back(file):
    for _ in range(2):
        with RunLock("run", file) as lock:
            lock.check()
        assert not os.path.exists(file)


def test_a_living_driver_is_not_disturbed(file):
    with RunLock("run", file) as lock:
        with pytest.raises(CheckpointError, match=f"run_dir=run is being trained by process {os.getpid()} on "):
            RunLock("run", file).__enter__()
        lock.check()


def test_a_driver_that_was_killed_is_succeeded_at_once(file, monkeypatch):
    monkeypatch.setattr(RunLock, "expiry_s", float("inf"))
    subprocess.run([sys.executable, "-c", DIES, file], timeout=60)
    assert json.loads(Path(file).read_text())["pid"] != os.getpid()
    with RunLock("run", file) as lock:
        lock.check()


def test_of_drivers_that_start_at_the_same_moment_one_trains(file):
    together = threading.Barrier(3)

    def enter(_):
        together.wait()
        try:
            with RunLock("run", file) as lock:
                together.wait()  # nobody leaves before all have tried
                lock.check()
                return 1
        except CheckpointError:
            together.wait()
            return 0

    with ThreadPoolExecutor(3) as pool:
        for _ in range(4):
            assert sum(pool.map(enter, range(3), timeout=30)) == 1


def test_a_clock_that_is_set_makes_no_driver_dead(file, monkeypatch):
    with RunLock("run", file) as lock:
        written = json.loads(Path(file).read_text())["started"]
        # Nothing that the time of day has a part in: psutil adds that of the boot, which moves with the clock.
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        assert written == ticks
        lock.check()


def test_one_of_another_machine_is_succeeded_when_it_is_silent(file):
    subprocess.run([sys.executable, "-c", DIES, file], timeout=60)
    left = json.loads(Path(file).read_text())
    Path(file).write_text(json.dumps({**left, "machine": "another"}))
    with RunLock("run", file) as lock:
        lock.check()


def test_a_driver_that_was_taken_for_dead_learns_it_and_leaves_the_other_alone(file):
    with RunLock("run", file) as lock:
        other = {"token": "other", "pid": 7, "host": "there"}
        Path(file).write_text(json.dumps(other))
        with pytest.raises(CheckpointError, match="trained by process 7 on there"):
            lock.check()
    assert json.loads(Path(file).read_text()) == other
