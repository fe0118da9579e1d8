"""Write, list and read committed checkpoints of a run: a folder each, with numbers as JSON and arrays as .npz.

Written by rank 0, listed and read on the driver and in ranks; knows nothing of Keras. A checkpoint counts only when it
is complete: the JSON file is written last, and a folder without it is ignored.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparkdl import storage
from sparkdl.errors import CheckpointError
from sparkdl.storage import folders
from sparkdl.storage.format_version import check_format_version

__all__ = [
    "CHECKPOINT_NAME",
    "FORMAT_VERSION",
    "Checkpoint",
    "Position",
    "committed_checkpoints",
    "open_arrays",
    "read_checkpoint",
    "read_json",
    "sweep_checkpoints",
    "write_checkpoint",
]

FORMAT_VERSION = 2
"""1 knew no `compilation` among the facts: a checkpoint without one is still written as 1."""

CHECKPOINT_NAME = "checkpoint.json"
ARRAYS_NAME = "arrays.npz"

_NAME = re.compile(r"epoch-(\d{5,})-step-(\d{8,})")


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """Describe a position in a run: the next step to train, and its epoch, each from 0."""

    epoch: int = 0
    step: int = 0

    def __str__(self) -> str:
        return f"epoch {self.epoch + 1}, step {self.step}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """Describe a committed checkpoint: its folder, where a run continues from it, and the JSON beside its arrays."""

    path: str
    position: Position
    facts: Mapping[str, Any]


def write_checkpoint(
    folder: str, position: Position, facts: Mapping[str, Any], arrays: Iterable[tuple[str, np.ndarray]]
) -> str:
    """Commit a checkpoint, and return its path. Only one array at a time is copied to memory.

    Raises CheckpointError if it cannot be written; no checkpoint exists then.
    """
    path = storage.join(folder, f"epoch-{position.epoch:05d}-step-{position.step:08d}")
    version = FORMAT_VERSION if "compilation" in facts else 1
    content = {"format_version": version, "epoch": position.epoch, "step": position.step, "facts": dict(facts)}
    try:
        with folders.committed_folder(path, last=CHECKPOINT_NAME) as local:
            # What np.savez writes, without holding all arrays.
            with zipfile.ZipFile(os.path.join(local, ARRAYS_NAME), "w", allowZip64=True) as archive:
                for name, array in arrays:
                    with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                        np.lib.format.write_array(file, array, allow_pickle=False)
            with open(os.path.join(local, CHECKPOINT_NAME), "w", encoding="utf-8") as text:
                json.dump(content, text)
    except OSError as error:
        raise CheckpointError(f"checkpoint {path} cannot be written: {error}") from error
    return path


def committed_checkpoints(folder: str) -> list[str]:
    """Return the paths of the committed checkpoints, the oldest first."""
    matches = filter(None, map(_NAME.fullmatch, storage.listing(folder)))
    by_position = sorted(matches, key=lambda match: tuple(map(int, match.groups())))
    paths = [storage.join(folder, match[0]) for match in by_position]
    return [path for path in paths if storage.exists(storage.join(path, CHECKPOINT_NAME))]


def read_checkpoint(path: str) -> Checkpoint:
    """Read a committed checkpoint. Raises CheckpointError if it cannot be read, or is of a newer format."""
    file = storage.join(path, CHECKPOINT_NAME)
    content = read_json(file)
    check_format_version(content, path=file, newest=FORMAT_VERSION, error=CheckpointError)
    return Checkpoint(path=path, position=Position(content["epoch"], content["step"]), facts=content["facts"])


def read_json(path: str) -> Any:
    """Read a JSON file of a run. Raises CheckpointError."""
    try:
        return json.loads(storage.read_bytes(path))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error


@contextlib.contextmanager
def open_arrays(checkpoint: Checkpoint) -> Iterator[Mapping[str, np.ndarray]]:
    """Open the arrays of a checkpoint by name; each is read on access. Raises CheckpointError."""
    source = storage.join(checkpoint.path, ARRAYS_NAME)
    with contextlib.ExitStack() as stack:
        try:
            if not storage.is_local(source):
                folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="sparkdl-checkpoint-"))
                storage.download(source, os.path.join(folder, ARRAYS_NAME))
                source = os.path.join(folder, ARRAYS_NAME)
            arrays = stack.enter_context(np.load(source, allow_pickle=False))
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise CheckpointError(f"{source} cannot be read: {error}") from error
        yield arrays


def sweep_checkpoints(folder: str, *, keep: int) -> None:
    """Remove all but the newest `keep` checkpoints, and what was never committed. Nobody else may write meanwhile."""
    committed = committed_checkpoints(folder)
    for name in storage.listing(folder):
        path = storage.join(folder, name)
        if path in committed[-keep:]:
            continue
        if path in committed:
            # First the file that commits it, so that a half-deleted folder is not taken for a checkpoint.
            storage.delete_file(storage.join(path, CHECKPOINT_NAME))
        storage.delete(path)
