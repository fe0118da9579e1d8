"""Call a function on every rank and bring back the values, or the one error that was the cause.

Runs on the driver.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sparkdl.config import LaunchConfig
from sparkdl.errors import ConfigError, SparkDLError, shown
from sparkdl.launch.barrier import active_session, run_barrier, task_cpus
from sparkdl.launch.closure import pickled_task
from sparkdl.launch.environment import Settings
from sparkdl.launch.local import cores_per_rank, run_local
from sparkdl.launch.monitor import Monitor, OnEvent
from sparkdl.launch.outcome import is_secondary, stall_error, worker_error

__all__ = ["launch_ranks", "run"]


def run(fn: Callable[..., Any], /, *args: Any, launch: LaunchConfig, **kwargs: Any) -> list[Any]:
    """Call `fn(*args, **kwargs)` on every rank; the values in rank order.

    Inside, `sparkdl.world()` gives rank and size; the function calls `hvd.init()` itself if it needs Horovod.

    Raises:
        ConfigError: the function and its arguments do not pickle, or take more than 10 MB.
        LaunchError: the ranks could not be started.
        WorkerError: a rank failed; it carries rank, host and traceback.
        SparkDLError: a rank raised one of the library's errors: that error, with the WorkerError as its cause.
    """
    return launch_ranks(fn, args, kwargs, launch=launch)


def launch_ranks(
    fn: Callable[..., Any],
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    launch: LaunchConfig,
    description: str = "sparkdl run",
    on_event: OnEvent | None = None,
) -> list[Any]:
    """Call a function on every rank, as `run` does, and hear what the ranks emit.

    Args:
        fn: what to call; it, its arguments and its value travel by cloudpickle.
        args: its positional arguments.
        kwargs: its keyword arguments.
        launch: where the ranks run.
        description: what the Spark UI calls the job.
        on_event: called as `on_event(rank, event)` for each event, live, one at a time, from a background thread.
    """
    if not callable(fn):
        raise ConfigError(f"{shown(fn)} is no function; ranks need one to call")
    if not isinstance(launch, LaunchConfig):
        raise ConfigError(f"launch={shown(launch)} must be a LaunchConfig")
    task = pickled_task(fn, tuple(args), dict(kwargs or {}))
    size = launch.num_workers
    monitor = Monitor(size, log=launch.log, on_event=on_event)
    if launch.local:
        settings = _settings(launch, cores_per_rank(size))
        results = run_local(task, size, settings, monitor, launch.start_timeout_s)
    else:
        settings = _settings(launch, task_cpus(active_session()))
        results = run_barrier(task, size, settings, monitor, launch.start_timeout_s, description)
    _raise_cause(monitor, results, launch)
    return [pickle.loads(result) for result in results]


def _settings(launch: LaunchConfig, cores: int) -> Settings:
    return Settings(env=tuple(launch.env.items()), stall_timeout_s=launch.stall_timeout_s, cores=cores)


def _raise_cause(monitor: Monitor, results: Sequence[bytes], launch: LaunchConfig) -> None:
    cause = monitor.cause
    if cause is None:
        return
    lines = monitor.last_lines(cause.rank)
    if is_secondary(cause, lines) and monitor.silent:
        raise stall_error(monitor.silent, cause, launch.num_workers, launch.stall_timeout_s)
    failure = worker_error(cause, launch.num_workers, lines)
    own = results[cause.rank] if cause.rank < len(results) else b""
    if cause.kind == "exception" and own:
        error = _own_error(own)
        if error is not None:
            raise error from failure
    raise failure


def _own_error(pickled: bytes) -> SparkDLError | None:
    try:
        error = pickle.loads(pickled)
    except Exception:  # its class may live only where the rank ran; the WorkerError says everything
        return None
    return error if isinstance(error, SparkDLError) else None
