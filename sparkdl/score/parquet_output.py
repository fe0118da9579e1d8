"""Make scored parts a folder that is there as a whole or not at all, and find it again.

Driver, within `score_parquet`. Parts are written into `.<name>.scoring/generation-…` beside the output, under the lease
of a living driver, as in `prepare`; what a killed one left there is nobody's, and the next run deletes it.
"""

from __future__ import annotations

import json
import os
import posixpath
from collections.abc import Mapping, Sequence
from typing import Any

from sparkdl import storage
from sparkdl.data.generations import Lease
from sparkdl.errors import ConfigError, DatasetError
from sparkdl.score.parquet_part import WrittenPart

__all__ = ["FIGURES_NAME", "commit", "finished", "staging_folder"]

# Beside the parts; Spark and others pass over names that begin with "_".
FIGURES_NAME = "_score.json"
SUCCESS_NAME = "_SUCCESS"
COMMITTING_NAME = "_committing.json"


def staging_folder(out: str) -> str:
    """Where the parts of an output are written before they count: beside it, hidden from Spark."""
    return storage.join(posixpath.dirname(out), f".{posixpath.basename(out)}.scoring")


def finished(out: str, made_of: str) -> dict[str, Any] | None:
    """What was told of the output when it was finished, if it is whole and made of the same; None if none is there.

    What a commit that was killed left is deleted (on an object store: a local folder appears at once).

    Raises ConfigError where something else is there.
    """
    names = storage.listing(out)
    if not names:
        return None
    if SUCCESS_NAME not in names and COMMITTING_NAME in names:
        for name in json.loads(storage.read_bytes(storage.join(out, COMMITTING_NAME))):
            storage.delete(storage.join(out, name))
        storage.delete(storage.join(out, COMMITTING_NAME))
        return finished(out, made_of)
    try:
        told: dict[str, Any] = json.loads(storage.read_bytes(storage.join(out, FIGURES_NAME)))
    except (FileNotFoundError, ValueError):
        told = {}
    if SUCCESS_NAME in names and told.get("made_of") == made_of:
        return told
    what = "the predictions of another input, model or options" if "made_of" in told else "files"
    raise ConfigError(f"out={out} already holds {what}; choose a new folder")


def commit(parts: Sequence[WrittenPart], told: Mapping[str, Any], out: str, lease: Lease, folder: str) -> None:
    """Make these parts the output.

    On a local disk the folder gets its name in one step. On an object store the parts are copied one by one, and
    `_SUCCESS` comes last: until then readers may see some of them, and what a killed commit left, the next run deletes.

    Raises:
        DatasetError: a part did not stay, or another run took this one for dead.
        ConfigError: another run has finished the same output meanwhile.
    """
    found = storage.sizes(folder)
    if not lease.is_held() or any(found.get(part.file) != part.bytes for part in parts):
        raise DatasetError(f"{out}: what was scored did not stay; score it again")
    names = {part.file: f"part-{place:05d}.parquet" for place, part in enumerate(parts)}
    text = json.dumps(told, indent=1).encode()
    if storage.is_local(out):
        # Parts of other attempts, which may still be written, stay behind.
        whole = storage.join(folder, "whole")
        os.makedirs(whole)
        for file, name in names.items():
            os.rename(storage.join(folder, file), storage.join(whole, name))
        storage.write_atomic(storage.join(whole, FIGURES_NAME), text)
        storage.write_atomic(storage.join(whole, SUCCESS_NAME), b"")
        storage.name_folder(whole, out)
        return
    storage.write_atomic(storage.join(out, COMMITTING_NAME), json.dumps([*names.values(), FIGURES_NAME]).encode())
    storage.copy_files({storage.join(folder, file): storage.join(out, name) for file, name in names.items()})
    storage.write_atomic(storage.join(out, FIGURES_NAME), text)
    storage.write_atomic(storage.join(out, SUCCESS_NAME), b"")
    storage.delete(storage.join(out, COMMITTING_NAME))
