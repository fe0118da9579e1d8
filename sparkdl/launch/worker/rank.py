"""Run a rank process: read the function, call the function, report how the call ended.

Runs in the rank process, which `reaper.become_rank` has forked; this module imports no TensorFlow itself.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import logging
import os
import pickle
import signal
import sys
import traceback
import warnings
from typing import IO, Any

import cloudpickle

from sparkdl.errors import SparkDLError
from sparkdl.launch.protocol.messages import Ended, Started
from sparkdl.launch.protocol.outcome import only_lost_its_peer
from sparkdl.launch.worker import emit, graceful_stop
from sparkdl.launch.worker.reaper import PR_SET_PDEATHSIG, STACKS_SIGNAL
from sparkdl.launch.worker.replaced_modules import replace_modules
from sparkdl.launch.world import World, world

__all__ = ["main"]
# A recursion error's traceback can be endless; its head and its tail say enough. Both limits together stay below the
# size of an event, at up to 12 bytes of JSON for a character.
MAX_TRACEBACK_CHARACTERS = 60_000
MAX_MESSAGE_CHARACTERS = 10_000
NOISY_MODULES = r"(petastorm|tensorflow|keras|horovod|pyarrow|pkg_resources|flatbuffers|google|h5py|ml_dtypes)(\.|$)"
# Libraries that log at INFO on every read or request.
CHATTY_LIBRARIES = ("absl", "botocore", "fsspec", "petastorm", "s3fs", "urllib3")


def die_with_parent() -> None:
    """Make the kernel kill this process when its parent, the reaper, dies; exit now if the reaper is dead already."""
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent or parent == 1:
        os._exit(1)


def quiet_libraries() -> None:
    """Keep the libraries' own deprecation warnings from the output; the user's code keeps its warnings."""
    for category in (DeprecationWarning, FutureWarning, UserWarning):
        warnings.filterwarnings("ignore", category=category, module=NOISY_MODULES)


def log_as_rank(world: World) -> None:
    """Write this process's log to stderr; each line names the rank. Ranks above 0 log from WARNING up.

    The form is `INFO [rank 0/8 host-a] sparkdl.train.rank.trainer: epoch 3 ...`. Everywhere else the library only logs
    to its loggers, and the program configures them.
    """
    name = world.describe().replace("%", "%%")
    level = logging.INFO if world.rank == 0 else logging.WARNING
    logging.basicConfig(level=level, format=f"%(levelname)s [{name}] %(name)s: %(message)s", force=True)
    for library in CHATTY_LIBRARIES:
        logging.getLogger(library).setLevel(logging.WARNING)


def ended_by(error: BaseException) -> Ended:
    """Describe an exception: its type, text, traceback without this module's frames, and whether a peer was lost."""
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_globals.get("__file__") == __file__:
        frames = frames.tb_next
    text = "".join(traceback.format_exception(type(error), error, frames))
    if len(text) > MAX_TRACEBACK_CHARACTERS:
        half = MAX_TRACEBACK_CHARACTERS // 2
        text = f"{text[:half]}\n[...]\n{text[-half:]}"
    try:
        message = str(error)
    except BaseException as unprintable:  # the user's __str__ is broken: the record must still arrive
        message = f"<its __str__ raised {type(unprintable).__name__}>"
    return Ended(
        kind="exception",
        error_type=type(error).__name__,
        message=message[:MAX_MESSAGE_CHARACTERS],
        traceback=text,
        lost_peer=only_lost_its_peer(error),
    )


def write_error(error: BaseException, result: IO[bytes]) -> None:
    """Put one of the library's own errors into the result, if it pickles; other types travel as text alone."""
    result.seek(0)
    result.truncate()
    if isinstance(error, SparkDLError):
        # Arguments that the user made may not pickle; the record says what is needed.
        with contextlib.suppress(Exception):
            result.write(cloudpickle.dumps(error))
    result.flush()


def exit_code(stop: SystemExit) -> tuple[int, str]:
    """Return the exit code of `sys.exit`, and the text that it got instead of a code."""
    if stop.code is None:
        return 0, ""
    return (int(stop.code), "") if isinstance(stop.code, int) else (1, str(stop.code)[:MAX_MESSAGE_CHARACTERS])


def end_if_forked(rank: int, error: BaseException | None = None) -> None:
    """Exit as Python would, if the function forked this process: only the rank itself has a value and an outcome."""
    if os.getpid() == rank:
        return
    code, said = 0, ""
    if isinstance(error, SystemExit):
        code, said = exit_code(error)
    elif error is not None:
        code, said = 1, "".join(traceback.format_exception(error))
    with contextlib.suppress(Exception):
        sys.stderr.write(said)
    flush_output()
    os._exit(code)


def flush_output() -> None:
    """Flush standard output and standard error, if the function has left them open."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()


def write_value(value: Any, result: IO[bytes]) -> None:
    """Put a function's value into the result. Raises TypeError if it does not pickle."""
    try:
        cloudpickle.dump(value, result)
    except Exception as error:
        what = f"cannot pickle the function's value, of type {type(value).__name__}, to send it to the driver"
        raise TypeError(f"{what}: {error}") from error
    result.flush()


def call(task: IO[bytes], result: IO[bytes]) -> Ended:
    """Call the pickled function; write its value to `result`, and return how the call ended."""
    rank = os.getpid()
    try:
        fn, args, kwargs = pickle.load(task)
        value = fn(*args, **kwargs)
        end_if_forked(rank)
        write_value(value, result)
        return Ended(kind="value")
    except SystemExit as stop:
        end_if_forked(rank, stop)
        code, said = exit_code(stop)
        if code == 0:
            cloudpickle.dump(None, result)
            result.flush()
            return Ended(kind="value")
        return Ended(kind="exit", code=code, message=said, lost_peer=only_lost_its_peer(stop))
    except BaseException as error:  # a rank's end is data, whatever it is
        end_if_forked(rank, error)
        write_error(error, result)
        return ended_by(error)


def main(descriptors: list[int]) -> int:
    """Run one rank. `descriptors`: the file descriptors of task, result, events and stacks."""
    task_fd, result_fd, events_fd, stacks_fd = descriptors
    die_with_parent()
    emit.connect(events_fd)
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
    faulthandler.register(STACKS_SIGNAL, file=stacks_fd, all_threads=True)
    graceful_stop.listen()
    quiet_libraries()
    log_as_rank(world())
    replace_modules()
    emit.announce(Started(pid=os.getpid()))
    with os.fdopen(task_fd, "rb") as task, os.fdopen(result_fd, "wb") as result:
        ended = call(task, result)
    flush_output()
    emit.announce(ended)
    return 0 if ended.kind == "value" else ended.code or 1
