"""What counts as progress of a rank."""

import pytest

from sparkdl.launch.reaper import Usage, made_progress


@pytest.mark.parametrize(
    ("main", "total", "progress"),
    [
        (0.0, 0.0, False),  # waits for a lock or a peer
        (0.0, 0.2, False),  # the same, and Horovod's own thread polls
        (0.01, 0.01, False),  # looks for a file every 20 ms
        (0.03, 0.03, True),
        (2.0, 2.0, True),
        (0.0, 0.6, True),  # TensorFlow's threads compute, the main thread waits for them
    ],
)
def test_progress_is_processor_time_in_two_seconds(main, total, progress):
    before = Usage(at=10.0, main=5.0, total=50.0)
    assert made_progress(before, Usage(at=12.0, main=5.0 + main, total=50.0 + total)) is progress


def test_descendants_that_ended_are_no_progress():
    assert not made_progress(Usage(at=0.0, main=1.0, total=9.0), Usage(at=2.0, main=1.0, total=3.0))
