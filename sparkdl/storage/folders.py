"""Make folders that appear as a whole, on any fsspec path.

Called by all rooms, on the driver, in Spark workers and in ranks.
"""

from __future__ import annotations

import contextlib
import os
import posixpath
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Mapping

from sparkdl import storage
from sparkdl.errors import ConfigError

__all__ = [
    "committed_folder",
    "copy_files",
    "move_folder",
    "name_folder",
    "replace_folder",
    "restore_folder",
    "upload_folder",
]


def upload_folder(local_folder: str, path: str, *, last: str | None = None) -> None:
    """Copy every file below `local_folder` to `path` (made if needed), file by file, and `last` at the end."""
    fs, inner = storage.filesystem(path)
    fs.makedirs(inner, exist_ok=True)
    files = _files_below(local_folder)
    for folder in sorted({posixpath.dirname(name) for name in files} - {""}):
        fs.makedirs(posixpath.join(inner, folder), exist_ok=True)
    for name in sorted(files, key=lambda name: (name == last, name)):
        fs.put_file(os.path.join(local_folder, name), posixpath.join(inner, name))


def _files_below(folder: str) -> list[str]:
    """List the paths of all files below a local folder, relative to the folder."""
    return [os.path.relpath(os.path.join(below, name), folder) for below, _, names in os.walk(folder) for name in names]


@contextlib.contextmanager
def committed_folder(path: str, *, last: str) -> Iterator[str]:
    """Give a local folder to write files into; it becomes the folder `path` when the block ends, replacing an old one.

    Args:
        path: the folder to make.
        last: the file without which readers see nothing in the folder; elsewhere than on local disks, this file is
            deleted first and uploaded last. A local folder is written beside and renamed.

    If the block raises, the written files are deleted and a folder that was there is as before.
    """
    if storage.is_local(path):
        with _local_committed_folder(os.path.realpath(path)) as folder:
            yield folder
        return
    with tempfile.TemporaryDirectory(prefix="sparkdl-") as folder:
        yield folder
        storage.delete(storage.join(path, last))
        try:
            upload_folder(folder, path, last=last)
        except BaseException:
            for name in _files_below(folder):
                storage.delete(storage.join(path, name))
            raise


@contextlib.contextmanager
def _local_committed_folder(target: str) -> Iterator[str]:
    aside, replaced = (f"{target}.{uuid.uuid4().hex}{storage.ASIDE}" for _ in range(2))
    os.makedirs(aside)
    try:
        yield aside
        _sync_folder(aside)
        with contextlib.suppress(FileNotFoundError):
            os.rename(target, replaced)
        os.rename(aside, target)
        storage.sync(os.path.dirname(target))
        shutil.rmtree(replaced, ignore_errors=True)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        with contextlib.suppress(OSError):
            os.rename(replaced, target)
        raise


def name_folder(folder: str, path: str) -> None:
    """Give a finished local folder its name, in one step. Raises ConfigError if there is something by that name."""
    _sync_folder(folder)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    try:
        os.rename(folder, path)
    except OSError as error:
        raise ConfigError(f"{path} cannot be made: {error.strerror}") from error
    storage.sync(os.path.dirname(path))


def replace_folder(folder: str, path: str, *, aside: str) -> None:
    """Give a finished local folder the name of another one, which is moved aside before, and then deleted.

    A process that is killed between the two steps leaves nothing by that name: `restore_folder` restores the old one,
    which waits at the path `aside`, on the same disk.
    """
    restore_folder(path, aside=aside)
    _sync_folder(folder)
    os.rename(path, aside)
    try:
        name_folder(folder, path)
    except BaseException:
        restore_folder(path, aside=aside)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def restore_folder(path: str, *, aside: str) -> None:
    """Give a local folder its name back that `replace_folder` moved aside; delete it where a new one has the name."""
    if not os.path.isdir(aside):
        return
    try:
        os.rename(aside, path)
        storage.sync(os.path.dirname(path))
    except OSError:
        if os.path.isdir(path):
            shutil.rmtree(aside, ignore_errors=True)


def move_folder(path: str, target: str, *, last: str, mark: tuple[str, bytes]) -> None:
    """Move a folder to a name that is free, in one step where the storage renames.

    Args:
        path: the folder to move.
        target: the new path, on the same storage.
        last: on object stores, which copy file by file, the file that is copied and deleted last: the old
            folder is whole until the copy is.
        mark: name and content of a file in the moved folder, which says that all files of the folder are there.
    """
    name, content = mark
    fs, inner = storage.filesystem(path)
    _, inner_target = storage.filesystem(target)
    if storage.renames(path):
        storage.write_atomic(storage.join(path, name), content)
        if storage.is_local(path):
            os.rename(inner, inner_target)
            storage.sync(os.path.dirname(inner_target))
        else:
            fs.mv(inner, inner_target, recursive=True)
        return
    fs.invalidate_cache()
    files = sorted(fs.find(inner), key=lambda file: (posixpath.relpath(file, inner) == last, file))
    for file in files:
        fs.cp_file(file, posixpath.join(inner_target, posixpath.relpath(file, inner)))
    storage.write_atomic(storage.join(target, name), content)
    for file in files:
        fs.rm_file(file)


def copy_files(targets: Mapping[str, str]) -> None:
    """Copy files within their store, by the store itself where it can; each path to its target."""
    fs, _ = storage.filesystem(next(iter(targets), "/"))
    sources, copies = ([storage.filesystem(path)[1] for path in paths] for paths in (targets.keys(), targets.values()))
    fs.copy(sources, copies, recursive=False)


def _sync_folder(path: str) -> None:
    """Make a local folder and all that is in it survive a power failure."""
    for folder, _, names in os.walk(path):
        for name in names:
            storage.sync(os.path.join(folder, name))
        storage.sync(folder)
