"""Commit scored parts as one folder that is complete or absent, find a finished output again, and replace it.

Driver. Parts are written into `.<name>.scoring/generation-…` beside the output, under the lease of a living driver, as
in `prepare`; the next run deletes the parts that a killed driver left there. An output that is replaced stays until the
new output is complete; then the old one waits in `.<name>.scoring/replaced` while the new one gets its name.
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
from sparkdl.checks import require
from sparkdl.data.generations import Lease, new_generation, sweep
from sparkdl.errors import ConfigError, DatasetError, shown
from sparkdl.storage import folders

__all__ = [
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

# Files beside the parts; Spark and others ignore names that begin with "_".
FIGURES_NAME = "_score.json"
SUCCESS_NAME = "_SUCCESS"
COMMITTING_NAME = "_committing.json"  # left by a commit to an object store that was killed, even at its very end
REPLACED_NAME = "replaced"  # a folder in the staging folder

_IF_EXISTS = ("error", "reuse", "replace")
_REPLACE = "if_exists='replace' scores anew and puts the new predictions in their place"


def check_if_exists(if_exists: object) -> None:
    """Raise ConfigError unless `if_exists` is one of the options."""
    require(if_exists in _IF_EXISTS, f"if_exists={shown(if_exists)} must be one of {', '.join(_IF_EXISTS)}")


def check_outside(out: str, path: str) -> None:
    """Raise ConfigError if the output would be read with the input, or replace the input. Both paths are absolute."""
    check_no_input(out, [path])
    out_there, there = _real(out), _real(path)
    names = out_there.removeprefix(f"{there}/").split("/")
    if out_there.startswith(f"{there}/") and not any(name.startswith(("_", ".")) for name in names):
        raise ConfigError(f"output {out} lies inside the input {path} and would be read with it; choose another folder")


def check_no_input(out: str, paths: Iterable[str]) -> None:
    """Raise ConfigError if a file that is read lies in the output folder, which may be replaced. All are absolute."""
    there = _real(out)
    path = next((path for path in paths if f"{_real(path)}/".startswith(f"{there}/")), None)
    if path is not None:
        raise ConfigError(f"output {out} already holds files, of the input {path}; choose another folder")


def _real(path: str) -> str:
    return os.path.realpath(path) if storage.is_local(path) else path


def finished(
    out: str, made_of: str | None, if_exists: str = "reuse", *, there: str | None = None
) -> dict[str, Any] | None:
    """Return what was saved with the finished output if it is to be reused; None if rows are to be scored.

    Args:
        out: an absolute path.
        made_of: the fingerprint of the new output's sources; None if they have no fingerprint.
        if_exists: "reuse", an output of the same fingerprint is reused, any other is an error; "error", any output is
            an error; "replace", predictions are replaced by new ones, also those of the same fingerprint.
        there: the folder that holds the output, if that is not `out`.

    Raises ConfigError where something exists that is neither reused nor replaced, and for another option.
    """
    there = there or out
    check_if_exists(if_exists)
    names = storage.listing(there)
    if not names or is_half(names):
        return None
    saved = _saved(there, names)
    if saved is None:
        raise ConfigError(
            f"output {out} already holds files, which are not finished predictions; choose a new folder "
            "(if_exists='replace' replaces predictions only)"
        )
    if if_exists == "replace":
        ours = (SUCCESS_NAME, FIGURES_NAME, COMMITTING_NAME)
        other = next((name for name in names if name not in ours and not name.startswith("part-")), None)
        if other is not None:
            raise ConfigError(f"output {out} holds {shown(other)} beside predictions; move it, or choose a new folder")
        return None
    if if_exists == "error":
        raise ConfigError(
            f"output {out} already holds predictions, and if_exists='error'; choose a new folder, or "
            f"if_exists='reuse', which takes the same ones; {_REPLACE}"
        )
    if made_of is not None and saved["made_of"] == made_of:
        _check_parts(out, saved, there)
        return saved
    known = made_of is not None and saved["made_of"] is not None
    unknown = "; it is not known whether they are of the same rows and code"
    what = " of another input, model, code or options" if known else unknown
    raise ConfigError(f"output {out} already holds predictions{what}; choose a new folder, or {_REPLACE}")


def _check_parts(out: str, saved: Mapping[str, Any], there: str) -> None:
    """Raise ConfigError if the parts are not those that were written. Outputs of older versions do not list parts."""
    parts = saved.get("parts")
    found = {name: size for name, size in storage.sizes(there).items() if name.startswith("part-")}
    if parts is None or parts == found:
        return
    name = min(name for name in {*parts, *found} if parts.get(name) != found.get(name))
    what = "is missing" if name not in found else "was added" if name not in parts else "is of another size"
    raise ConfigError(f"output {out} is not as it was written: {name} {what}; choose a new folder, or {_REPLACE}")


def _saved(out: str, names: list[str]) -> dict[str, Any] | None:
    """Read what was saved with finished predictions; None if the folder holds something else."""
    if SUCCESS_NAME not in names:
        return None
    try:
        saved: dict[str, Any] = json.loads(storage.read_bytes(storage.join(out, FIGURES_NAME)))
    except (FileNotFoundError, ValueError):
        return None
    return saved if "made_of" in saved else None


@dataclass(frozen=True, slots=True)
class NewOutput:
    """Describe an output that is being made: its parts are written into `folder`, and replace those at `out` or not.

    The lease shows tasks that the driver still waits for the parts.
    """

    out: str
    folder: str
    lease: Lease
    replace: bool = False

    def commit(self, parts: Mapping[str, int], saved: Mapping[str, Any]) -> None:
        """Make these files of `folder`, sizes by name, the parts of the output, in this order; save `saved` with them.

        On a local disk the folder gets its name in one step, after the output that it replaces has lost the name. On an
        object store the parts are copied one by one, the parts that they replace are deleted, and `_SUCCESS` comes
        last: until then readers may see some of the parts; the next commit deletes the files of a killed commit.

        Raises:
            DatasetError: a part is missing, or another run took this run for dead.
            ConfigError: another run has finished the same output meanwhile.
        """
        found = storage.sizes(self.folder)
        if not self.lease.is_held() or any(found.get(name) != size for name, size in parts.items()):
            raise DatasetError(f"{self.out}: what was scored did not stay; score it again")
        there = storage.listing(self.out)
        half = is_half(there)
        replacing = self.replace and not half and _saved(self.out, there) is not None
        if there and not half and not replacing:
            raise ConfigError(f"{self.out} cannot be made: another run has written there meanwhile")
        if half and not storage.is_local(self.out):
            committing = storage.join(self.out, COMMITTING_NAME)
            for name in json.loads(storage.read_bytes(committing)):
                storage.delete(storage.join(self.out, name))
            storage.delete(committing)
        stale = [name for name in there if name.startswith("part-")] if replacing else []
        # In a store the old parts stay beside the new ones until all new parts exist.
        beside = stale and not storage.is_local(self.out)
        mark = f"-{self.lease.generation.removeprefix('generation-')}" if beside else ""
        names = {name: f"part-{number:05d}{mark}.parquet" for number, name in enumerate(parts)}
        sizes = {names[name]: size for name, size in parts.items()}
        text = json.dumps({**saved, "parts": sizes}, indent=1).encode()
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
    """Yield an output to make within the block at an absolute path; what was not committed at its end is deleted.

    `replace`: the commit replaces predictions that exist there. Raises ConfigError where the output cannot be made.
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
                    # At the first sweep the lease of a driver that was just killed was not silent for long.
                    sweep(staging, lease)
            finally:
                # The lease first: by its absence tasks that still run see that the driver does not wait for them.
                storage.delete(lease.file)
                storage.delete(folder)
    finally:
        # Only if it is empty: its content may belong to another run that has just begun.
        if storage.is_local(staging):
            with contextlib.suppress(OSError):
                os.rmdir(staging)
        elif not storage.listing(staging):
            storage.delete(staging)


def put_back(out: str) -> None:
    """Give a replaced output its name again, if the driver was killed before the new output got the name.

    If the new output has the name, the old one is deleted. To be called before `finished`.
    """
    if not storage.is_local(out):
        return
    out = os.path.realpath(out)
    folders.restore_folder(out, aside=replaced_folder(out))
    with contextlib.suppress(OSError):
        os.rmdir(_staging(out))


def _staging(out: str) -> str:
    # Hidden from Spark, which may read the folder that holds the output.
    return storage.join(posixpath.dirname(out), f".{posixpath.basename(out)}.scoring")


def replaced_folder(out: str) -> str:
    """Return the folder that keeps an output while a new one replaces it."""
    return storage.join(_staging(out), REPLACED_NAME)


def is_half(names: list[str]) -> bool:
    """Tell whether a commit to an object store was killed."""
    return COMMITTING_NAME in names and SUCCESS_NAME not in names
