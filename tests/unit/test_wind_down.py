"""Asking a run to end by itself."""

import subprocess
import sys

from sparkdl.launch import wind_down

RANK = """
import os
from sparkdl.launch import wind_down
from sparkdl.launch.reaper import WIND_DOWN_SIGNAL
wind_down.listen()
before = wind_down.is_asked()
os.kill(os.getpid(), WIND_DOWN_SIGNAL)
print(before, wind_down.is_asked())
"""


def test_only_launches_that_obey_are_asked() -> None:
    assert not wind_down.ask()
    with wind_down.obeyed() as one, wind_down.obeyed() as other:
        assert wind_down.ask()
        assert one.is_set() and other.is_set()
    assert not wind_down.ask()


def test_a_rank_hears_the_signal() -> None:
    told = subprocess.run([sys.executable, "-c", RANK], capture_output=True, text=True, check=True, timeout=60)
    assert told.stdout.split() == ["False", "True"]
