"""Make scored parts a folder that is there as a whole or not at all, and find it again.

Driver. Parts are written into `.<name>.scoring/generation-…` beside the output, under the lease of a living driver, as
in `prepare`; what a killed one left there is nobody's, and the next run deletes it.
"""

from __future__ import annotations

import contextlib
import json
import os
import posixpath
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sparkdl import folders, storage
from sparkdl.data.generations import Lease, new_generation, sweep
from sparkdl.errors import ConfigError, DatasetError

__all__ = ["NewOutput", "check_outside", "finished", "new_output"]

# Beside the parts; Spark and others pass over names that begin with "_".
FIGURES_NAME = "_score.json"
SUCCESS_NAME = "_SUCCESS"
COMMITTING_NAME = "_committing.json"


def check_outside(out: str, path: str) -> None:
    """Raise ConfigError if the output would lie among the input's files, and be read with them. Both are absolute."""
    names = out.removeprefix(f"{path}/").split("/")
    if out.startswith(f"{path}/") and not any(name.startswith(("_", ".")) for name in names):
        raise ConfigError(f"output {out} lies inside the input {path} and would be read with it; choose another folder")


def finished(out: str, made_of: str | None) -> dict[str, Any] | None:
    """What was told of the output when it was finished, if it is whole and made of the same; None if none is there.

    Args:
        out: an absolute path.
        made_of: names what it would be made of; None if nothing does.

    Raises ConfigError where something else is there, or what cannot be compared.
    """
    names = storage.listing(out)
    if not names or _is_half(names):
        return None
    try:
        told: dict[str, Any] = json.loads(storage.read_bytes(storage.join(out, FIGURES_NAME)))
    except (FileNotFoundError, ValueError):
        told = {}
    if SUCCESS_NAME in names and "made_of" in told:
        if made_of is not None and told["made_of"] == made_of:
            return told
        known = made_of is not None and told["made_of"] is not None
        what = "of another input, model or options" if known else "; nothing tells whether of the same rows"
        raise ConfigError(f"output {out} already holds predictions{' ' if known else ''}{what}; choose a new folder")
    raise ConfigError(f"output {out} already holds files; choose a new folder")


@dataclass(frozen=True, slots=True)
class NewOutput:
    """An output that is being made.

    Attributes:
        out: where it will be.
        folder: where its parts are written.
        lease: what says that somebody waits for them.
    """

    out: str
    folder: str
    lease: Lease

    def commit(self, parts: Mapping[str, int], told: Mapping[str, Any]) -> None:
        """Make these files of `folder`, by name with their sizes, the output; in this order they are its parts.

        On a local disk the folder gets its name in one step. On an object store the parts are copied one by one, and
        `_SUCCESS` comes last: until then readers may see some of them; what a killed commit left, the next deletes.

        Raises:
            DatasetError: a part did not stay, or another run took this one for dead.
            ConfigError: another run has finished the same output meanwhile.
        """
        found = storage.sizes(self.folder)
        if not self.lease.is_held() or any(found.get(name) != size for name, size in parts.items()):
            raise DatasetError(f"{self.out}: what was scored did not stay; score it again")
        names = {name: f"part-{place:05d}.parquet" for place, name in enumerate(parts)}
        text = json.dumps(told, indent=1).encode()
        if storage.is_local(self.out):
            self._name(names, text)
        else:
            self._copy(names, text)

    def _name(self, names: Mapping[str, str], text: bytes) -> None:
        # Parts of other attempts, which may still be written, stay behind.
        whole = storage.join(self.folder, "whole")
        os.makedirs(whole)
        for name, part in names.items():
            os.rename(storage.join(self.folder, name), storage.join(whole, part))
        storage.write_atomic(storage.join(whole, FIGURES_NAME), text)
        storage.write_atomic(storage.join(whole, SUCCESS_NAME), b"")
        folders.name_folder(whole, self.out)

    def _copy(self, names: Mapping[str, str], text: bytes) -> None:
        out = self.out
        if _is_half(storage.listing(out)):
            _take_back(out)
        committing = storage.join(out, COMMITTING_NAME)
        storage.write_atomic(committing, json.dumps([*names.values(), FIGURES_NAME]).encode())
        folders.copy_files({storage.join(self.folder, name): storage.join(out, p) for name, p in names.items()})
        storage.write_atomic(storage.join(out, FIGURES_NAME), text)
        storage.write_atomic(storage.join(out, SUCCESS_NAME), b"")
        storage.delete(committing)


@contextlib.contextmanager
def new_output(out: str) -> Iterator[NewOutput]:
    """An output to be made within the block; what was not committed at its end is deleted.

    Raises ConfigError where it cannot be made.
    """
    if storage.is_local(out):
        out = os.path.realpath(out)
        if os.path.ismount(out):
            raise ConfigError(f"output {out} is where a disk is mounted and cannot be renamed; choose a folder in it")
    # Hidden from Spark, which may read the folder that holds the output.
    staging = storage.join(posixpath.dirname(out), f".{posixpath.basename(out)}.scoring")
    generation = new_generation()
    folder = storage.join(staging, generation)
    try:
        storage.make_folder(staging)
    except OSError as error:
        raise ConfigError(f"output {out} cannot be made: {error}") from error
    try:
        with Lease(staging, generation) as lease:
            sweep(staging, lease)
            try:
                yield NewOutput(out, folder, lease)
                if lease.is_held():
                    # What a driver left that was killed a moment before this one began was not silent for long then.
                    sweep(staging, lease)
            finally:
                # The lease first: tasks that still run see by it that nobody waits for them.
                storage.delete(lease.file)
                storage.delete(folder)
    finally:
        _delete_empty(staging)


def _delete_empty(staging: str) -> None:
    """Delete the folder unless there is something in it, which may be another run's that has just begun."""
    if storage.is_local(staging):
        with contextlib.suppress(OSError):
            os.rmdir(staging)
    elif not storage.listing(staging):
        storage.delete(staging)


def _is_half(names: list[str]) -> bool:
    """Whether a commit to an object store was killed."""
    return COMMITTING_NAME in names and SUCCESS_NAME not in names


def _take_back(out: str) -> None:
    committing = storage.join(out, COMMITTING_NAME)
    for name in json.loads(storage.read_bytes(committing)):
        storage.delete(storage.join(out, name))
    storage.delete(committing)
