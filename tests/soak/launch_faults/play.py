"""A rank's part in a case: it fails, or it waits where the case has it. Runs in the rank processes."""

import os
import threading
import time
from pathlib import Path

from launch_faults.marks import mark, note, wait_until
from launch_faults.table import Case
from sparkdl import world

# The peer's call has begun by then, and in Horovod the operation is under way.
SETTLE_S = 0.3
WAIT_LIMIT_S = 90.0


def meet_in_horovod():
    import horovod.tensorflow as hvd
    import tensorflow as tf

    hvd.init()
    hvd.allreduce(tf.constant(1.0), name="first")


def wait_in_allreduce():
    import horovod.tensorflow as hvd
    import tensorflow as tf

    hvd.allreduce(tf.constant(1.0), name="second")


def wait_in_init():
    import horovod.tensorflow as hvd

    hvd.init()


def wait_in_python():
    threading.Event().wait()


def play(case: Case, folder: Path) -> int:
    """One rank's part: the fault, or the place where the other rank is. Returns the rank."""
    me = world().rank
    note(folder, os.getpid())
    if case.peer == "allreduce":
        meet_in_horovod()
    elif case.peer == "init":
        import horovod.tensorflow  # noqa: F401 - so that the peer gets to init at once
    if me != case.rank:
        (folder / "waiting").touch()
        if case.peer != "returns":
            {"python": wait_in_python, "allreduce": wait_in_allreduce, "init": wait_in_init}[case.peer]()
        return me
    if not wait_until((folder / "waiting").exists, WAIT_LIMIT_S):
        raise TimeoutError("the peer did not come to its place")
    time.sleep(SETTLE_S + case.delay_s)
    print(f"last words of rank {me}", flush=True)
    if case.what.strike is None:
        (folder / "ready").touch()
        wait_in_python()
    mark(folder)
    case.what.strike(folder)
    return me
