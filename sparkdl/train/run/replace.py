"""Keep a replaced run in a folder beside the new run until the new run has finished.

Runs on the driver, for `resume="replace"`. Nothing is deleted before the new run has its result; if it never has one,
the old run stays in its folder, complete, and can be moved back.
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

# A file in a folder that was set aside, which names the run that it belongs to. It is written last.
MARK = "replaced.json"


def goes_on(run: RunDir, check: Callable[[str], bool], code: Code, *, epochs: int) -> bool:
    """Tell whether the folder holds this very run, unfinished: an interrupted `resume="replace"`, which continues.

    A run that was begun without "replace" is replaced: the files that its build_model has read may have changed.
    `check`: as of `run_check`. Raises CheckpointError for a folder that holds something other than a run.
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
    """Move the run in the folder aside, and log where to. Raises CheckpointError while a driver trains it."""
    if not storage.exists(run.record):
        return
    with RunLock(run.path, run.driver):  # nobody trains it
        pass
    aside = next(path for path in run.asides() if not storage.listing(path))
    try:
        folders.move_folder(run.path, aside, last="run.json", mark=(MARK, json.dumps({"of": run.path}).encode()))
    except OSError as error:
        raise CheckpointError(f"run_dir={run.path} cannot be moved to {aside}: {error}") from error
    log.warning("the run that was in run_dir=%s lies in %s until the new one has finished", run.path, aside)


def kept_aside(run: RunDir) -> list[str]:
    """Return the folders of the runs that this one replaces, the oldest first."""
    found = []
    for path in run.asides():
        names = storage.listing(path)
        if not names:
            break
        # A folder without the mark is the user's, or an incomplete copy.
        if MARK in names and json.loads(storage.read_bytes(storage.join(path, MARK)))["of"] == run.path:
            found.append(path)
    return found


def discard_replaced(run: RunDir) -> None:
    """Delete the runs that this one, which has finished, replaces."""
    for path in reversed(kept_aside(run)):  # newest first: `kept_aside` still finds the others if this is interrupted
        storage.delete(path)
