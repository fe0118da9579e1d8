"""Run the ranks as child processes of the driver, without Spark.

Runs on the driver. The thread that calls `LocalRanks.run_ranks` starts the processes and waits for them.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from functools import partial

from sparkdl.errors import LaunchError
from sparkdl.launch.checks.gpus import addresses_for, too_few, visible_gpus
from sparkdl.launch.checks.hostname import refused_names, useless_address
from sparkdl.launch.driver.monitor import Monitor
from sparkdl.launch.driver.ranks import RanksSpec, Values
from sparkdl.launch.worker.environment import Settings, rank_environment, search_path
from sparkdl.launch.worker.fork_server.client import ForkServer
from sparkdl.launch.worker.place import LOOPBACK
from sparkdl.launch.worker.process import RankProcess
from sparkdl.launch.worker.rank_log_file import RankLog
from sparkdl.launch.worker.rendezvous import Rendezvous
from sparkdl.launch.worker.start_reaper import StartReaper, start_reaper
from sparkdl.launch.world import assign_worlds

__all__ = ["LocalRanks"]


class LocalRanks:
    """Run ranks as child processes: new ones, or forked by a fork server. Implements `Ranks`."""

    def __init__(self, forks: ForkServer | None = None) -> None:
        self._forks = forks
        self._processes: list[RankProcess] = []

    def run_ranks(self, spec: RanksSpec, monitor: Monitor, values: Values) -> str:
        """Run the ranks to their end; their values go to `values`, their outcomes to `monitor`. Returns "".

        Raises LaunchError if this machine has too few GPUs or a name that does not resolve, or ranks do not start in
        time.
        """
        start: StartReaper = start_reaper if self._forks is None else partial(self._forks.fork, modules=spec.modules)
        gpus_per_worker = spec.launch.gpus_per_worker
        visible = visible_gpus(os.environ) if gpus_per_worker else ()
        if gpus_per_worker * spec.size > len(visible):
            raise LaunchError(too_few(spec.size, gpus_per_worker, visible))
        host = socket.gethostname()
        if problem := refused_names({host: useless_address(host)}):
            raise LaunchError(problem)
        worlds = assign_worlds([host] * spec.size)
        # The ranks share this machine's cores.
        settings = Settings.of(spec.launch, cores=max(1, len(os.sched_getaffinity(0)) // spec.size))
        with Rendezvous(LOOPBACK) as rendezvous, contextlib.ExitStack() as stack:
            rendezvous.open(worlds)
            for world in worlds:
                log = stack.enter_context(RankLog.of(spec.log_folder, world)) if spec.log_folder else None
                env = rank_environment(
                    os.environ,
                    world,
                    settings,
                    rendezvous=(LOOPBACK, rendezvous.port),
                    interface="lo",
                    path=search_path(sys.path, folder=os.getcwd()),
                    gpus=addresses_for(world.local_rank, gpus_per_worker, visible),
                )
                report = partial(monitor.receive, world.rank)
                # Entering may fail for a later rank: the stack ends those that run.
                process = RankProcess(world, task=spec.task, env=env, report=report, log=log, start=start)
                try:
                    self._processes.append(stack.enter_context(process))
                except OSError as error:
                    raise LaunchError(f"rank {world.rank} cannot be started: {error}") from error
            try:
                monitor.watch(self)
            finally:
                self.stop()
            for world, process in zip(worlds, self._processes, strict=True):
                values.copy(world.rank, process.result)
        return ""

    def stop(self) -> None:
        for process in self._processes:
            process.stop()

    def dump_stacks(self) -> None:
        for process in self._processes:
            process.report_stacks()

    def request_stop(self) -> None:
        for process in self._processes:
            process.wind_down()

    def is_alive(self) -> bool:
        """Return True: each process reports its own end, so that more messages may come."""
        return True
