"""What counts as progress of a rank."""

import pytest

from sparkdl.launch.worker.reaper import Usage, made_progress


@pytest.mark.parametrize(
    ("main", "threads", "descendants", "progress"),
    [
        (0.0, 0.0, 0.0, False),  # waits for a lock or a peer
        (0.0, 0.2, 0.0, False),  # the same, and Horovod's own thread polls
        (0.01, 0.01, 0.0, False),  # looks for a file every 20 ms
        (0.03, 0.03, 0.0, True),
        (2.0, 2.0, 0.0, True),
        (0.0, 0.6, 0.0, True),  # TensorFlow's threads compute, the main thread waits for them
        (0.0, 0.0, 0.4, True),  # a child works on a busy machine
        (0.0, 0.0, 0.02, False),  # a child sleeps
    ],
)
def test_progress_is_processor_time_in_two_seconds(main, threads, descendants, progress):
    before = Usage(at=10.0, main=5.0, threads=50.0, descendants=7.0)
    now = Usage(at=12.0, main=5.0 + main, threads=50.0 + threads, descendants=7.0 + descendants)
    assert made_progress(before, now) is progress


def test_descendants_that_ended_are_no_progress():
    before = Usage(at=0.0, main=1.0, threads=1.0, descendants=9.0)
    assert not made_progress(before, Usage(at=2.0, main=1.0, threads=1.0, descendants=3.0))
