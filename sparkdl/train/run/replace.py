"""Keep a run that another one replaces beside it, until the new one has finished.

Runs on the driver, for `resume="replace"`. Nothing is deleted before a new run has its result; where that never comes,
the old run lies beside, whole, and can be moved back.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable

from sparkdl import storage
from sparkdl.errors import CheckpointError
from sparkdl.storage import folders
from sparkdl.train.run.made_by import Code, changed_code
from sparkdl.train.run.run_dir import RunDir
from sparkdl.train.run.run_lock import RunLock

__all__ = ["discard_replaced", "goes_on", "kept_aside", "set_aside"]

log = logging.getLogger(__name__)

# In a folder that lies aside: of which run it is. It is written last.
MARK = "replaced.json"


def goes_on(run: RunDir, check: Callable[[str], bool], code: Code, *, epochs: int) -> bool:
    """Whether the folder holds this very run, not finished: `resume="replace"` was interrupted, and goes on.

    A run that another call began is replaced: the files that its build_model has read may be others now.

    Args:
        check: tells, for a `TrainConfig.resume`, what `RunDir.check` tells of this run.

    Raises CheckpointError for a folder that holds something else than a run.
    """
    try:
        there = check("auto")
    except CheckpointError:
        if not storage.exists(run.record):
            raise
        return False
    if not there or storage.exists(run.finished) or run.begun_by() != "replace":
        return False
    if run.latest_checkpoint() is None:
        return True
    return changed_code(run, code) is None and run.reached(epochs)


def set_aside(run: RunDir) -> None:
    """Move a run that is there out of the way, and say where. Raises CheckpointError while a driver trains it."""
    if not storage.exists(run.record):
        return
    with RunLock(run.path, run.driver):  # nobody trains it
        pass
    place = next(path for path in run.asides() if not storage.listing(path))
    try:
        folders.move_folder(run.path, place, last="run.json", mark=(MARK, json.dumps({"of": run.path}).encode()))
    except OSError as error:
        raise CheckpointError(f"run_dir={run.path} cannot be moved to {place}: {error}") from error
    log.warning("the run that was in run_dir=%s lies in %s until the new one has finished", run.path, place)


def kept_aside(run: RunDir) -> list[str]:
    """Where runs lie that this one replaces, the oldest first."""
    found = []
    for path in run.asides():
        names = storage.listing(path)
        if not names:
            break
        # A folder without the mark is the user's, or a copy that was broken off.
        if MARK in names and json.loads(storage.read_bytes(storage.join(path, MARK)))["of"] == run.path:
            found.append(path)
    return found


def discard_replaced(run: RunDir) -> None:
    """Delete the runs that this one, which has finished, replaces."""
    for path in reversed(kept_aside(run)):  # the others stay findable if this ends half-way
        storage.delete(path)
