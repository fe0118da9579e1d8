"""Call a function on every rank and return the values, or raise the one error that was the cause.

Runs on the driver.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from sparkdl import storage
from sparkdl.errors import ConfigError, SparkDLError, WorkerError, shown
from sparkdl.launch.checks.payload_size import MAX_CLOSURE_BYTES, pickled_task
from sparkdl.launch.config import LaunchConfig
from sparkdl.launch.driver.barrier import BarrierRanks
from sparkdl.launch.driver.local import LocalRanks
from sparkdl.launch.driver.monitor import Monitor, OnEvent
from sparkdl.launch.driver.ranks import RanksSpec, Values
from sparkdl.launch.driver.session import available_workers
from sparkdl.launch.group import WorkerGroup, launch_of
from sparkdl.launch.protocol.outcome import is_secondary, lost_peer_error, named, worker_error
from sparkdl.launch.worker.rank_log_file import launch_folder_name, rank_log_path

__all__ = ["check_launch", "launch_ranks", "run"]


def run(fn: Callable[..., Any], /, *args: Any, launch: LaunchConfig | WorkerGroup, **kwargs: Any) -> list[Any]:
    """Call `fn(*args, **kwargs)` on every rank and return the values in rank order.

    Inside, `sparkdl.world()` gives rank and size; the function calls `hvd.init()` itself if it needs Horovod.

    Raises:
        ConfigError: the function and its arguments do not pickle, or take more than 10 MB.
        LaunchError: the ranks could not be started.
        WorkerError: a rank failed; the error carries rank, host and traceback.
        SparkDLError: a rank raised one of the library's errors: that error, with the WorkerError as its cause.
    """
    return launch_ranks(fn, args, kwargs, launch=launch)


def launch_ranks(
    fn: Callable[..., Any],
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    launch: LaunchConfig | WorkerGroup,
    description: str = "sparkdl run",
    on_event: OnEvent | None = None,
    log_dir: str | None = None,
    closure_limit: int = MAX_CLOSURE_BYTES,
    asked: threading.Event | None = None,
    modules: Sequence[str] = (),
) -> list[Any]:
    """Call a function on every rank, as `run` does, and receive the events that the ranks emit.

    Args:
        fn: the function to call; the function, its arguments and its value travel by cloudpickle.
        description: the name of the job in the Spark UI.
        on_event: called as `on_event(rank, event)` for each event, live, one at a time, from a background thread.
        log_dir: where each rank's output is kept, unless `launch.log_dir` says so.
        closure_limit: the bytes that the function and its arguments may take together.
        asked: once this event is set, the ranks are asked to stop by themselves (`graceful_stop`), and awaited.
        modules: the modules that the ranks of a worker group have loaded when they start.
    """
    task, size = _checked(fn, args, kwargs or {}, launch, closure_limit)
    config = launch_of(launch)
    log_dir = config.log_dir or log_dir
    log_folder = None
    if log_dir:
        name = launch_folder_name(datetime.now(timezone.utc), secrets.token_hex(2))
        log_folder = storage.join(storage.absolute(log_dir), name)
    spec = RanksSpec(
        task=task, size=size, launch=config, description=description, log_folder=log_folder, modules=tuple(modules)
    )
    ranks = launch if isinstance(launch, WorkerGroup) else LocalRanks() if config.local else BarrierRanks()
    with Values(size) as values:
        with Monitor(size, config, on_event=on_event, asked=asked) as monitor:
            job_error = ranks.run_ranks(spec, monitor, values)
        _raise_cause(monitor, values, size, job_error, log_folder)
        return [_value(values, rank, size, monitor.hosts) for rank in range(size)]


def check_launch(
    fn: Callable[..., Any],
    args: Sequence[Any],
    *,
    launch: LaunchConfig | WorkerGroup,
    closure_limit: int = MAX_CLOSURE_BYTES,
) -> int:
    """Return the number of ranks that `launch_ranks` would start. Raises what `launch_ranks` raises until then."""
    return _checked(fn, args, {}, launch, closure_limit)[1]


def _checked(
    fn: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    launch: LaunchConfig | WorkerGroup,
    closure_limit: int,
) -> tuple[bytes, int]:
    """Return the pickled task and the number of ranks that can run it."""
    if not callable(fn):
        raise ConfigError(f"{shown(fn)} is not callable; ranks need a function to call")
    if not isinstance(launch, LaunchConfig | WorkerGroup):
        raise ConfigError(f"launch={shown(launch)} must be a LaunchConfig or a WorkerGroup")
    task = pickled_task(fn, tuple(args), dict(kwargs), limit=closure_limit)
    if isinstance(launch, WorkerGroup):
        return task, launch.world_size()
    return task, launch.num_workers if launch.local else available_workers(launch)


def _raise_cause(monitor: Monitor, values: Values, size: int, job_error: str, log_folder: str | None) -> None:
    if monitor.stall:
        raise monitor.stall.error(size, monitor.hosts, monitor.stacks)
    cause = monitor.cause
    if cause is None:
        return
    lines = monitor.last_lines(cause.rank)
    if is_secondary(cause, lines) and (monitor.returned or monitor.silent):
        raise lost_peer_error(cause, size, monitor.hosts, returned=monitor.returned, silent=monitor.silent)
    why = job_error if cause.kind == "lost" else ""
    log = rank_log_path(log_folder, cause.rank, size) if log_folder else ""
    failure = worker_error(cause, size, lines, why=why, log=log)
    if cause.kind == "exception":
        error = _own_error(values, cause.rank)
        if error is not None:
            raise error from failure
    raise failure


def _value(values: Values, rank: int, size: int, hosts: Mapping[int, str]) -> Any:
    try:
        return values.load(rank)
    except (Exception, SystemExit) as error:  # its class may exist only where the rank ran
        host = hosts.get(rank, "")
        what = f"returned a value that the driver cannot load: {type(error).__name__}: {error}"
        raise WorkerError(f"{named([rank], size, host)} {what}", rank=rank, host=host) from error


def _own_error(values: Values, rank: int) -> SparkDLError | None:
    try:
        error = values.load(rank)
    except Exception:  # its class may exist only where the rank ran; the WorkerError says everything
        return None
    return error if isinstance(error, SparkDLError) else None
