"""Make scored parts a folder that is there as a whole or not at all, find it again, and replace it by a new one.

Driver. Parts are written into `.<name>.scoring/generation-…` beside the output, under the lease of a living driver, as
in `prepare`; what a killed one left there is nobody's, and the next run deletes it. An output that is replaced stays
until the new one is whole; then it waits in `.<name>.scoring/replaced` while the new one gets its name.
"""

from __future__ import annotations

import contextlib
import json
import os
import posixpath
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sparkdl import storage
from sparkdl.data.generations import Lease, new_generation, sweep
from sparkdl.errors import ConfigError, DatasetError, shown
from sparkdl.storage import folders

__all__ = [
    "IF_EXISTS",
    "NewOutput",
    "check_if_exists",
    "check_no_input",
    "check_outside",
    "finished",
    "is_half",
    "new_output",
    "put_back",
    "replaced_folder",
]

IF_EXISTS = ("error", "reuse", "replace")

# Beside the parts; Spark and others pass over names that begin with "_".
FIGURES_NAME = "_score.json"
SUCCESS_NAME = "_SUCCESS"
COMMITTING_NAME = "_committing.json"
# In the staging folder.
REPLACED_NAME = "replaced"

_REPLACE = "if_exists='replace' scores anew and puts the new predictions in their place"


def check_if_exists(if_exists: object) -> None:
    """Raise ConfigError unless this is one of the options."""
    if if_exists not in IF_EXISTS:
        raise ConfigError(f"if_exists={shown(if_exists)} must be one of {', '.join(IF_EXISTS)}")


def check_outside(out: str, path: str) -> None:
    """Raise ConfigError if the output would be read with the input, or replace it. Both paths are absolute."""
    check_no_input(out, [path])
    out_there, there = _real(out), _real(path)
    names = out_there.removeprefix(f"{there}/").split("/")
    if out_there.startswith(f"{there}/") and not any(name.startswith(("_", ".")) for name in names):
        raise ConfigError(f"output {out} lies inside the input {path} and would be read with it; choose another folder")


def check_no_input(out: str, paths: Iterable[str]) -> None:
    """Raise ConfigError if a file that is read lies in the output's folder, which may be replaced. All are absolute."""
    there = _real(out)
    path = next((path for path in paths if f"{_real(path)}/".startswith(f"{there}/")), None)
    if path is not None:
        raise ConfigError(f"output {out} already holds files, of the input {path}; choose another folder")


def _real(path: str) -> str:
    return os.path.realpath(path) if storage.is_local(path) else path


def finished(
    out: str, made_of: str | None, if_exists: str = "reuse", *, there: str | None = None
) -> dict[str, Any] | None:
    """What was told of the output when it was finished, if it shall be reused; None if rows shall be scored.

    Args:
        out: an absolute path.
        made_of: names what it would be made of; None if nothing does.
        if_exists: "reuse", the same is reused and another one is an error; "error", whatever is there is an error;
            "replace", other predictions of ours are replaced by new ones, and the same, too.
        there: the folder that it lies in, if another one than `out`.

    Raises ConfigError where something is there that is neither reused nor replaced, and for another option.
    """
    there = there or out
    check_if_exists(if_exists)
    names = storage.listing(there)
    if not names or is_half(names):
        return None
    told = _told(there, names)
    if told is None:
        raise ConfigError(
            f"output {out} already holds files, which are not finished predictions; choose a new folder "
            "(if_exists='replace' replaces predictions only)"
        )
    if if_exists == "replace":
        other = next((name for name in names if not _is_ours(name)), None)
        if other is not None:
            raise ConfigError(f"output {out} holds {shown(other)} beside predictions; move it, or choose a new folder")
        return None
    if if_exists == "error":
        raise ConfigError(
            f"output {out} already holds predictions, and if_exists='error'; choose a new folder, or "
            f"if_exists='reuse', which takes the same ones; {_REPLACE}"
        )
    if made_of is not None and told["made_of"] == made_of:
        _check_parts(out, told, there)
        return told
    known = made_of is not None and told["made_of"] is not None
    what = " of another input, model, code or options" if known else "; nothing tells whether of the same rows and code"
    raise ConfigError(f"output {out} already holds predictions{what}; choose a new folder, or {_REPLACE}")


def _check_parts(out: str, told: Mapping[str, Any], there: str) -> None:
    """Raise ConfigError if the parts are not those that were written. Outputs of before do not tell them."""
    parts = told.get("parts")
    found = {name: size for name, size in storage.sizes(there).items() if name.startswith("part-")}
    if parts is None or parts == found:
        return
    name = min(name for name in {*parts, *found} if parts.get(name) != found.get(name))
    what = "is missing" if name not in found else "was added" if name not in parts else "is of another size"
    raise ConfigError(f"output {out} is not as it was written: {name} {what}; choose a new folder, or {_REPLACE}")


def _is_ours(name: str) -> bool:
    # A commit to an object store that was killed at its very end leaves its plan.
    return name in (SUCCESS_NAME, FIGURES_NAME, COMMITTING_NAME) or name.startswith("part-")


def _told(out: str, names: list[str]) -> dict[str, Any] | None:
    """What was told of finished predictions; None where something else is there."""
    if SUCCESS_NAME not in names:
        return None
    try:
        told: dict[str, Any] = json.loads(storage.read_bytes(storage.join(out, FIGURES_NAME)))
    except (FileNotFoundError, ValueError):
        return None
    return told if "made_of" in told else None


@dataclass(frozen=True, slots=True)
class NewOutput:
    """An output that is being made.

    Attributes:
        out: where it will be.
        folder: where its parts are written.
        lease: what says that somebody waits for them.
        replace: predictions that are at `out` give way to it.
    """

    out: str
    folder: str
    lease: Lease
    replace: bool = False

    def commit(self, parts: Mapping[str, int], told: Mapping[str, Any]) -> None:
        """Make these files of `folder`, by name with their sizes, the output; in this order they are its parts.

        On a local disk the folder gets its name in one step, after the one that it replaces has lost it. On an object
        store the parts are copied one by one, those that they replace are deleted, and `_SUCCESS` comes last: until
        then readers may see some of them; what a killed commit left, the next deletes.

        Raises:
            DatasetError: a part did not stay, or another run took this one for dead.
            ConfigError: another run has finished the same output meanwhile.
        """
        found = storage.sizes(self.folder)
        if not self.lease.is_held() or any(found.get(name) != size for name, size in parts.items()):
            raise DatasetError(f"{self.out}: what was scored did not stay; score it again")
        there = storage.listing(self.out)
        half = is_half(there)
        replacing = self.replace and not half and _told(self.out, there) is not None
        if there and not half and not replacing:
            raise ConfigError(f"{self.out} cannot be made: another run has written there meanwhile")
        if half and not storage.is_local(self.out):
            _take_back(self.out)
        stale = [name for name in there if name.startswith("part-")] if replacing else []
        # In a store those that they replace stay beside them until all of them are there.
        beside = stale and not storage.is_local(self.out)
        mark = f"-{self.lease.generation.removeprefix('generation-')}" if beside else ""
        names = {name: _part_name(place, mark) for place, name in enumerate(parts)}
        sizes = {names[name]: size for name, size in parts.items()}
        text = json.dumps({**told, "parts": sizes}, indent=1).encode()
        if storage.is_local(self.out):
            self._name(names, text, replacing=replacing)
        else:
            self._copy(names, text, stale)

    def _name(self, names: Mapping[str, str], text: bytes, *, replacing: bool) -> None:
        # Parts of other attempts, which may still be written, stay behind.
        whole = storage.join(self.folder, "whole")
        os.makedirs(whole)
        for name, part in names.items():
            os.rename(storage.join(self.folder, name), storage.join(whole, part))
        storage.write_atomic(storage.join(whole, FIGURES_NAME), text)
        storage.write_atomic(storage.join(whole, SUCCESS_NAME), b"")
        if replacing:
            folders.replace_folder(whole, self.out, aside=replaced_folder(self.out))
        else:
            folders.name_folder(whole, self.out)

    def _copy(self, names: Mapping[str, str], text: bytes, stale: list[str]) -> None:
        out, committing = self.out, storage.join(self.out, COMMITTING_NAME)
        storage.write_atomic(committing, json.dumps([*names.values(), *stale, FIGURES_NAME]).encode())
        storage.delete(storage.join(out, SUCCESS_NAME))
        folders.copy_files({storage.join(self.folder, name): storage.join(out, p) for name, p in names.items()})
        for name in stale:
            storage.delete(storage.join(out, name))
        storage.write_atomic(storage.join(out, FIGURES_NAME), text)
        storage.write_atomic(storage.join(out, SUCCESS_NAME), b"")
        storage.delete(committing)


@contextlib.contextmanager
def new_output(out: str, *, replace: bool = False) -> Iterator[NewOutput]:
    """An output to be made within the block; what was not committed at its end is deleted.

    Args:
        out: an absolute path.
        replace: predictions that are there are replaced when the new ones are committed.

    Raises ConfigError where it cannot be made.
    """
    if storage.is_local(out):
        out = os.path.realpath(out)
        if os.path.ismount(out):
            raise ConfigError(f"output {out} is where a disk is mounted and cannot be renamed; choose a folder in it")
    staging = _staging(out)
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
                yield NewOutput(out, folder, lease, replace)
                if lease.is_held():
                    # What a driver left that was killed a moment before this one began was not silent for long then.
                    sweep(staging, lease)
            finally:
                # The lease first: tasks that still run see by it that nobody waits for them.
                storage.delete(lease.file)
                storage.delete(folder)
    finally:
        _delete_empty(staging)


def put_back(out: str) -> None:
    """Give an output its name again that was to be replaced, if the driver was killed before the new one had it.

    Where the new one has it, the old one is deleted. To be called before `finished`.
    """
    if not storage.is_local(out):
        return
    out = os.path.realpath(out)
    folders.restore_folder(out, aside=replaced_folder(out))
    with contextlib.suppress(OSError):
        os.rmdir(_staging(out))


def _part_name(place: int, mark: str = "") -> str:
    return f"part-{place:05d}{mark}.parquet"


def _staging(out: str) -> str:
    # Hidden from Spark, which may read the folder that holds the output.
    return storage.join(posixpath.dirname(out), f".{posixpath.basename(out)}.scoring")


def replaced_folder(out: str) -> str:
    """Where the output waits that a new one replaces."""
    return storage.join(_staging(out), REPLACED_NAME)


def _delete_empty(staging: str) -> None:
    """Delete the folder unless there is something in it, which may be another run's that has just begun."""
    if storage.is_local(staging):
        with contextlib.suppress(OSError):
            os.rmdir(staging)
    elif not storage.listing(staging):
        storage.delete(staging)


def is_half(names: list[str]) -> bool:
    """Whether a commit to an object store was killed."""
    return COMMITTING_NAME in names and SUCCESS_NAME not in names


def _take_back(out: str) -> None:
    committing = storage.join(out, COMMITTING_NAME)
    for name in json.loads(storage.read_bytes(committing)):
        storage.delete(storage.join(out, name))
    storage.delete(committing)
