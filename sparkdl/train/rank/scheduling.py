"""How the operating system shares a core among the threads of a rank.

Runs in rank processes.
"""

from __future__ import annotations

import logging
import os

__all__ = ["compute_undisturbed"]

log = logging.getLogger(__name__)


def compute_undisturbed() -> None:
    """Let this thread, and those that it starts, compute until their time is up, whoever wakes up meanwhile.

    Horovod's thread wakes up a thousand times a second and tf.data's ones for every batch; each time Linux would take
    the core from the thread that computes the step, and the other ranks wait for it: a step of 38 ms on two ranks with
    a core each took 47 ms, and takes 38 ms with this (benchmarks/train.py). See SCHED_BATCH in sched(7). Where the
    system forbids it, training is as exact and slower.
    """
    try:
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    except OSError as error:
        log.info("threads of this rank will disturb each other, as SCHED_BATCH is refused: %s", error)
