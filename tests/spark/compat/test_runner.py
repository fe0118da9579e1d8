"""HorovodRunner's way of running ranks, as Spark tasks."""

import pytest

from sparkdl.compat import HorovodRunner, log_to_driver
from sparkdl.launch.world import world

pytestmark = pytest.mark.timeout(120)


def speak(greeting):
    """Print a line, send a line, and return who speaks."""
    print(f"printed by {world().rank}")
    log_to_driver(f"{greeting} from {world().rank}")
    return world().rank, world().size


@pytest.mark.parametrize(
    ("verbosity", "printed"),
    [("log_callback_only", []), ("all", ["[rank 0] printed by 0", "[rank 1] printed by 1"])],
)
def test_two_tasks_run_and_only_what_was_asked_for_is_shown(spark, capsys, verbosity, printed):
    runner = HorovodRunner(np=2, driver_log_verbosity=verbosity)
    assert runner.run(speak, greeting="hello") == (0, 2)
    lines = capsys.readouterr().err.splitlines()
    assert sorted(line for line in lines if line.startswith("hello")) == ["hello from 0", "hello from 1"]
    assert sorted(line for line in lines if "printed" in line) == printed
