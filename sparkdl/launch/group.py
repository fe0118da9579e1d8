"""Keep what starts ranks alive between calls.

Runs on the driver. Each call of a group runs in new rank processes, forked from one that has loaded the libraries and
has run nothing with them: a call in a used group has the result of a call in a new one, whatever came before.
"""

from __future__ import annotations

import logging
import threading
import time
from types import TracebackType

from sparkdl.checks import require_seconds
from sparkdl.errors import ConfigError, LaunchError, shown
from sparkdl.launch.config import LaunchConfig
from sparkdl.launch.driver.barrier import BarrierRanks
from sparkdl.launch.driver.local import LocalRanks
from sparkdl.launch.driver.monitor import Monitor
from sparkdl.launch.driver.ranks import RanksSpec, Values
from sparkdl.launch.driver.session import available_workers
from sparkdl.launch.worker.fork_server.client import ForkServer

__all__ = ["WorkerGroup", "launch_of"]

log = logging.getLogger(__name__)

WATCH_S = 1.0
# Looks in a row at which another job must wait: between two of its tasks none of them runs for a moment.
LOOKS = 2


class WorkerGroup:
    """Run several calls of `fit`, `evaluate` and `run` on ranks that start in a fraction of a second.

    Give the group as the `launch` of each call, one at a time:

        with sparkdl.WorkerGroup(LaunchConfig(num_workers=2)) as group:
            result = sparkdl.fit(build_model, dataset, config, launch=group)
            sparkdl.evaluate(result.model_dir, dataset, launch=group)

    The first call starts the group; in a Spark session the group is a barrier job, which holds its task slots. A call
    whose rank fails raises what it raises without a group, and ends the group's processes. The group also ends them
    after `idle_timeout_s` seconds without a call, and when it holds slots for which another job of the session waits.
    The next call starts new ones.

    Args:
        launch: where the ranks run.
        idle_timeout_s: seconds without a call after which the group gives up its slots and processes.

    Raises ConfigError for a value out of range.
    """

    def __init__(self, launch: LaunchConfig, *, idle_timeout_s: float = 600.0) -> None:
        if not isinstance(launch, LaunchConfig):
            raise ConfigError(f"launch={shown(launch)} must be a LaunchConfig")
        require_seconds("idle_timeout_s", idle_timeout_s, least=1)
        self._launch = launch
        self._idle_timeout_s = idle_timeout_s
        # Held by a call, for as long as it runs: another call at the same time is refused.
        self._calling = threading.Lock()
        # Held by whoever uses or ends the processes: a call, the thread that watches an idle group, `close`.
        self._using = threading.Lock()
        self._ranks: BarrierRanks | None = None
        self._forks: ForkServer | None = None
        self._size = 0
        self._closed = False
        self._idle_since = time.monotonic()

    def __enter__(self) -> WorkerGroup:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def launch(self) -> LaunchConfig:
        """The description of where the ranks run."""
        return self._launch

    def close(self) -> None:
        """End all processes and give up the slots, once a call that runs has ended. A closed group takes no call."""
        self._closed = True
        with self._using:
            self._give_up()

    def world_size(self) -> int:
        """Return the number of ranks: of the group that runs, else of those that the session can run.

        Raises LaunchError if the session cannot run them.
        """
        if self._launch.local:
            return self._launch.num_workers
        if self._ranks is not None and self._ranks.is_running:
            return self._size
        return available_workers(self._launch)

    def run_ranks(self, spec: RanksSpec, monitor: Monitor, values: Values) -> str:
        """Run the ranks of one call, as `LocalRanks.run_ranks` and `BarrierRanks.run_ranks` do.

        Raises LaunchError if the group is closed or runs another call.
        """
        if not self._calling.acquire(blocking=False):
            raise LaunchError("the worker group runs another call; a group takes one call at a time")
        try:
            with self._using:
                if self._closed:
                    raise LaunchError("the worker group is closed; make another")
                return self._run(spec, monitor, values)
        finally:
            self._idle_since = time.monotonic()
            self._calling.release()

    def _run(self, spec: RanksSpec, monitor: Monitor, values: Values) -> str:
        if self._forks is None and self._ranks is None:
            threading.Thread(target=self._watch, name="worker group", daemon=True).start()
        if self._launch.local:
            self._forks = self._forks or ForkServer(limit_s=self._launch.start_timeout_s)
            return LocalRanks(self._forks).run_ranks(spec, monitor, values)
        self._ranks = self._ranks or BarrierRanks(warm=True)
        self._size = spec.size
        return self._ranks.run_ranks(spec, monitor, values)

    def _watch(self) -> None:
        """Give up what the group holds once it is idle for too long, or in the way of another job; then return."""
        waits = 0
        while True:
            time.sleep(WATCH_S)
            if not self._using.acquire(blocking=False):
                continue
            try:
                if self._forks is None and self._ranks is None:
                    return
                waits = waits + 1 if self._ranks is not None and self._ranks.holds_others_up() else 0
                idle_s = time.monotonic() - self._idle_since
                if waits >= LOOKS or idle_s > self._idle_timeout_s:
                    why = "another job waits for its slots" if waits else f"it had no call for {idle_s:.0f} s"
                    log.info("the worker group ends its processes, as %s; the next call starts new ones", why)
                    self._give_up()
                    return
            finally:
                self._using.release()

    def _give_up(self) -> None:
        ranks, self._ranks = self._ranks, None
        forks, self._forks = self._forks, None
        if ranks is not None:
            ranks.close()
        if forks is not None:
            forks.close()


def launch_of(launch: LaunchConfig | WorkerGroup) -> LaunchConfig:
    """Return where the ranks of a call run."""
    return launch.launch if isinstance(launch, WorkerGroup) else launch
