"""Asking a run to end by itself."""

import subprocess
import sys

from sparkdl.launch.worker import graceful_stop

RANK = """
import os
from sparkdl.launch.worker import graceful_stop
from sparkdl.launch.worker.reaper import WIND_DOWN_SIGNAL
graceful_stop.listen()
before = graceful_stop.is_asked()
os.kill(os.getpid(), WIND_DOWN_SIGNAL)
print(before, graceful_stop.is_asked())
"""


def test_only_launches_that_obey_are_asked() -> None:
    assert not graceful_stop.ask()
    with graceful_stop.obeyed() as one, graceful_stop.obeyed() as other:
        assert graceful_stop.ask()
        assert one.is_set() and other.is_set()
    assert not graceful_stop.ask()


def test_a_rank_hears_the_signal() -> None:
    told = subprocess.run([sys.executable, "-c", RANK], capture_output=True, text=True, check=True, timeout=60)
    assert told.stdout.split() == ["False", "True"]
