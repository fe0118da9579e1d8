"""Run the ranks as child processes of the driver, without Spark.

Runs on the driver. The thread that calls it starts the processes and waits for them.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from functools import partial

from sparkdl.launch.environment import Settings, rank_environment, search_path
from sparkdl.launch.monitor import Monitor
from sparkdl.launch.process import RankProcess
from sparkdl.launch.rendezvous import Rendezvous
from sparkdl.launch.world import World, assign_worlds

__all__ = ["run_local"]

LOOPBACK = "127.0.0.1"


def cores_per_rank(size: int) -> int:
    """This machine's cores, divided among the ranks; at least one each."""
    return max(1, len(os.sched_getaffinity(0)) // size)


def run_local(task: bytes, size: int, settings: Settings, monitor: Monitor, start_timeout_s: float) -> list[bytes]:
    """Run the pickled task on every rank; each rank's pickled value in rank order, empty ones where one failed.

    Raises LaunchError if ranks do not start in time.
    """
    worlds = assign_worlds([socket.gethostname()] * size)
    with Rendezvous(LOOPBACK) as rendezvous, contextlib.ExitStack() as stack:
        rendezvous.open(worlds)
        start = partial(_process, task=task, settings=settings, port=rendezvous.port, monitor=monitor)
        # Entering may fail for a later rank: the stack ends those that run.
        processes = [stack.enter_context(start(place)) for place in worlds]

        def stop() -> None:
            for process in processes:
                process.stop()

        try:
            monitor.watch(stop=stop, alive=lambda: True, start_timeout_s=start_timeout_s)
        finally:
            stop()
        return [process.result.read() for process in processes]


def _process(place: World, *, task: bytes, settings: Settings, port: int, monitor: Monitor) -> RankProcess:
    env = rank_environment(
        os.environ,
        place,
        settings,
        rendezvous=(LOOPBACK, port),
        interface="lo",
        path=search_path(sys.path, folder=os.getcwd()),
    )
    return RankProcess(place, task=task, env=env, report=partial(monitor.receive, place.rank))
