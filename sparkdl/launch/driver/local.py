"""Run the ranks as child processes of the driver, without Spark.

Runs on the driver. The thread that calls it starts the processes and waits for them.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from functools import partial
from typing import Any

from sparkdl.errors import LaunchError
from sparkdl.launch.checks.gpus import addresses_for, too_few, visible_gpus
from sparkdl.launch.checks.hostname import refused_names, useless_address
from sparkdl.launch.driver.monitor import Monitor
from sparkdl.launch.driver.results import Values
from sparkdl.launch.worker.environment import Settings, rank_environment, search_path
from sparkdl.launch.worker.process import RankProcess
from sparkdl.launch.worker.rank_log import RankLog
from sparkdl.launch.worker.rendezvous import Rendezvous
from sparkdl.launch.world import assign_worlds

__all__ = ["cores_per_rank", "run_local"]

LOOPBACK = "127.0.0.1"


def cores_per_rank(size: int) -> int:
    """This machine's cores, divided among the ranks; at least one each."""
    return max(1, len(os.sched_getaffinity(0)) // size)


def run_local(
    task: bytes,
    size: int,
    settings: Settings,
    monitor: Monitor,
    values: Values,
    *,
    gpus_per_worker: int = 0,
    log_folder: str | None = None,
) -> None:
    """Run the pickled task on every rank; what the ranks return goes to `values`.

    Raises LaunchError if this machine has too few GPUs or a name that nothing knows, or ranks do not start in time.
    """
    visible = visible_gpus(os.environ) if gpus_per_worker else ()
    if gpus_per_worker * size > len(visible):
        raise LaunchError(too_few(size, gpus_per_worker, visible))
    host = socket.gethostname()
    problem = refused_names({host: useless_address(host)})
    if problem is not None:
        raise LaunchError(problem)
    worlds = assign_worlds([host] * size)
    with Rendezvous(LOOPBACK) as rendezvous, contextlib.ExitStack() as stack:
        rendezvous.open(worlds)
        processes: list[RankProcess] = []

        def stop() -> None:
            for process in processes:
                process.stop()

        def ask_stacks() -> None:
            for process in processes:
                process.report_stacks()

        def wind_down() -> None:
            for process in processes:
                process.wind_down()

        for place in worlds:
            log = stack.enter_context(RankLog.of(log_folder, place)) if log_folder else None
            env = rank_environment(
                os.environ,
                place,
                settings,
                rendezvous=(LOOPBACK, rendezvous.port),
                interface="lo",
                path=search_path(sys.path, folder=os.getcwd()),
                gpus=addresses_for(place.local_rank, gpus_per_worker, visible),
            )
            report = partial(_report, monitor, log, place.rank)
            # Entering may fail for a later rank: the stack ends those that run.
            processes.append(stack.enter_context(RankProcess(place, task=task, env=env, report=report)))
        try:
            monitor.watch(stop=stop, ask_stacks=ask_stacks, wind_down=wind_down)
        finally:
            stop()
        for place, process in zip(worlds, processes, strict=True):
            values.copy(place.rank, process.result)


def _report(monitor: Monitor, log: RankLog | None, rank: int, message: dict[str, Any]) -> None:
    if message["type"] == "line" and log:
        log.write(message["text"])
    monitor.receive(rank, message)
