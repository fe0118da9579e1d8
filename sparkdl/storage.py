"""Read and write small files and folders on any fsspec path, with an atomic write.

Called by all rooms, on the driver, in Spark workers and in ranks. A path is a local path or a URL (`s3://…`; Hadoop's
`s3a://…` names the same objects). Where a store is and who may read it is told by each process's environment.
"""

from __future__ import annotations

import contextlib
import glob
import os
import posixpath
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import IO, Any

import fsspec

from sparkdl.errors import ConfigError

__all__ = [
    "ASIDE",
    "absolute",
    "committed_folder",
    "copy_files",
    "delete",
    "delete_file",
    "discard",
    "download",
    "exists",
    "filesystem",
    "is_local",
    "join",
    "listing",
    "make_folder",
    "modified",
    "name_folder",
    "read_bytes",
    "sizes",
    "touch",
    "upload_folder",
    "write_atomic",
    "write_from",
]

# How the name of a file ends that waits to be renamed; a killed process leaves it behind.
ASIDE = ".aside"

# One PUT replaces an object as a whole.
_ATOMIC_PUT = ("s3", "s3a", "gs", "gcs", "abfs", "az")
_LOCAL = ("file", "local")
# A rename that finds its target there is refused.
_NO_OVERWRITE = ("hdfs", "webhdfs")
# Of a copy in memory; s3fs would hold 50 MiB.
_COPY_BYTES = 8 << 20


def filesystem(path: str) -> tuple[Any, str]:
    """The fsspec filesystem of `path`, and the path as that filesystem names it."""
    fs, inner = fsspec.core.url_to_fs(path)
    return fs, inner


def _protocol(fs: Any) -> str:
    return str(fs.protocol if isinstance(fs.protocol, str) else fs.protocol[0])


def is_local(path: str) -> bool:
    """Whether `path` lies on this machine's own filesystem."""
    return "://" not in path or path.startswith("file://")


def absolute(path: str | os.PathLike[str]) -> str:
    """`path` as every process understands it: local paths absolute (executors have other working folders).

    Raises ConfigError for what is no path, and for one that other processes cannot see.
    """
    try:
        path = os.fspath(path)
    except TypeError:
        path = ""
    if not isinstance(path, str) or not path:
        raise ConfigError("a path must be a non-empty string or a pathlib.Path")
    if path.startswith("file:"):
        path = re.sub("^file:(//)?(?=/)", "", path)
    if path.startswith("memory:"):
        raise ConfigError(f"{path} exists in one process only; ranks and Spark workers are others")
    if re.match("[A-Za-z][A-Za-z0-9+.-]+:/(?!/)", path):
        raise ConfigError(f"{path} has one slash after its scheme; write it with two, as in s3://bucket/folder")
    if re.match("[^/]*://[^/]*:[^/]*@", path):
        raise ConfigError("a path holds a password; leave it out and give it to the processes by their environment")
    if not is_local(path):
        return path.rstrip("/")
    return os.path.abspath(os.path.expanduser(path))


def join(path: str, *names: str) -> str:
    """`path/name/…` for local paths and URLs alike."""
    return posixpath.join(path, *names)


def exists(path: str) -> bool:
    """Whether a file or folder is there."""
    fs, inner = filesystem(path)
    fs.invalidate_cache()
    return bool(fs.exists(inner))


def listing(path: str) -> list[str]:
    """The names (not paths) in a folder, sorted; empty if there is no such folder."""
    fs, inner = filesystem(path)
    fs.invalidate_cache()
    try:
        return sorted(posixpath.basename(name.rstrip("/")) for name in fs.ls(inner, detail=False))
    except FileNotFoundError:
        return []


def sizes(path: str) -> dict[str, int]:
    """The bytes of each file in a folder by name; empty if there is no such folder."""
    fs, inner = filesystem(path)
    fs.invalidate_cache()
    try:
        found = fs.ls(inner, detail=True)
    except FileNotFoundError:
        return {}
    return {posixpath.basename(entry["name"]): int(entry["size"]) for entry in found if entry["type"] == "file"}


def modified(path: str) -> datetime:
    """When a file was last written, by the clock of its file system. Raises FileNotFoundError."""
    fs, inner = filesystem(path)
    fs.invalidate_cache()
    return fs.modified(inner)


def touch(path: str) -> None:
    """Make an empty file; one that is there counts as written now."""
    fs, inner = filesystem(path)
    fs.touch(inner)


def make_folder(path: str) -> None:
    """Make a folder and its parents; nothing happens where it exists (object stores have no folders)."""
    fs, inner = filesystem(path)
    fs.makedirs(inner, exist_ok=True)


def read_bytes(path: str) -> bytes:
    """A file's content. Raises FileNotFoundError."""
    fs, inner = filesystem(path)
    # A listing that is remembered may tell the size that a file had before it was replaced.
    fs.invalidate_cache()
    return bytes(fs.cat_file(inner))


def write_atomic(path: str, content: bytes, *, durable: bool = True) -> None:
    """Write a file so that a reader sees the old content or the new, never a part.

    Local files are written aside and renamed; an object store's PUT is atomic by itself. HDFS refuses to rename over a
    file: there, a reader may find no file for a moment. What need not survive a power failure is not `durable`: the
    write does not wait for a disk that others keep busy.
    """
    fs, inner = filesystem(path)
    protocol = _protocol(fs)
    if protocol in _ATOMIC_PUT:
        fs.pipe_file(inner, content)
        return
    fs.makedirs(posixpath.dirname(inner), exist_ok=True)
    aside = f"{inner}.{uuid.uuid4().hex}{ASIDE}"
    try:
        with fs.open(aside, "wb") as file:
            file.write(content)
            file.flush()
            if protocol in _LOCAL and durable:
                os.fsync(file.fileno())
        if protocol in _LOCAL:
            os.replace(aside, inner)
            if durable:
                _sync(posixpath.dirname(inner))
            return
        if protocol in _NO_OVERWRITE and fs.exists(inner):
            fs.rm(inner)
        fs.mv(aside, inner)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            fs.rm(aside)
        raise


def _sync(path: str) -> None:
    """Make a local file's content, or the names in a local folder, survive a power failure."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(path: str) -> None:
    """The same for a local folder and all that is in it."""
    for folder, _, names in os.walk(path):
        for name in names:
            _sync(os.path.join(folder, name))
        _sync(folder)


def write_from(path: str, source: IO[bytes], size: int) -> None:
    """Write the first `size` bytes of an open local file, which may grow meanwhile; its position does not matter.

    An object store keeps what it had until all of it is there. Elsewhere the file is written in place.
    """
    fs, inner = filesystem(path)
    if _protocol(fs) not in _ATOMIC_PUT:
        fs.makedirs(posixpath.dirname(inner), exist_ok=True)
    handle = fs.open(inner, "wb", block_size=_COPY_BYTES)
    try:
        for start in range(0, size, _COPY_BYTES):
            handle.write(os.pread(source.fileno(), min(_COPY_BYTES, size - start), start))
        handle.close()
    except BaseException:
        with contextlib.suppress(Exception):  # the first error tells more
            discard(handle, path)
        raise


def discard(handle: Any, path: str) -> None:
    """Close a file that is being written without keeping it; an object store forgets the parts it has so far."""
    fs, _ = filesystem(path)
    if _protocol(fs) in _ATOMIC_PUT:
        handle.discard()
        # Its destructor would complete the upload otherwise.
        handle.closed = True
        return
    handle.close()
    delete(path)


def upload_folder(local_folder: str, path: str, *, last: str | None = None) -> None:
    """Copy every file below `local_folder` to `path` (made if needed), file by file, and `last` at the end."""
    fs, inner = filesystem(path)
    fs.makedirs(inner, exist_ok=True)
    files = _files_below(local_folder)
    for folder in sorted({posixpath.dirname(name) for name in files} - {""}):
        fs.makedirs(posixpath.join(inner, folder), exist_ok=True)
    for name in sorted(files, key=lambda name: (name == last, name)):
        fs.put_file(os.path.join(local_folder, name), posixpath.join(inner, name))


def _files_below(folder: str) -> list[str]:
    """The paths of all files in a local folder and its folders, relative to it."""
    return [os.path.relpath(os.path.join(below, name), folder) for below, _, names in os.walk(folder) for name in names]


def download(path: str, local_file: str) -> None:
    """Copy a file to this machine, piece by piece: it may be larger than the memory. Raises FileNotFoundError."""
    fs, inner = filesystem(path)
    fs.invalidate_cache()
    # Some filesystems leave an empty file where there is nothing to copy.
    if not fs.exists(inner):
        raise FileNotFoundError(path)
    fs.get_file(inner, local_file)


@contextlib.contextmanager
def committed_folder(path: str, *, last: str) -> Iterator[str]:
    """A local folder to write files into; when the block ends they are the folder `path`, in place of one there.

    Args:
        path: what to make.
        last: the file without which readers see nothing in the folder; elsewhere than on local disks it is taken away
            first and uploaded last. A local folder is written beside and renamed.

    If the block raises, the files are gone and a folder that was there is as before.
    """
    if is_local(path):
        with _local_committed_folder(os.path.realpath(path)) as folder:
            yield folder
        return
    with tempfile.TemporaryDirectory(prefix="sparkdl-") as folder:
        yield folder
        delete(join(path, last))
        try:
            upload_folder(folder, path, last=last)
        except BaseException:
            for name in _files_below(folder):
                delete(join(path, name))
            raise


@contextlib.contextmanager
def _local_committed_folder(target: str) -> Iterator[str]:
    aside, replaced = (f"{target}.{uuid.uuid4().hex}{ASIDE}" for _ in range(2))
    os.makedirs(aside)
    try:
        yield aside
        _sync_folder(aside)
        with contextlib.suppress(FileNotFoundError):
            os.rename(target, replaced)
        os.rename(aside, target)
        _sync(os.path.dirname(target))
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
    _sync(os.path.dirname(path))


def copy_files(targets: Mapping[str, str]) -> None:
    """Copy files within their store, by the store itself where it can; each path to its target."""
    fs, _ = filesystem(next(iter(targets), "/"))
    sources, copies = ([filesystem(path)[1] for path in paths] for paths in (targets.keys(), targets.values()))
    fs.copy(sources, copies, recursive=False)


def delete(path: str) -> None:
    """Delete a file or a whole folder; nothing happens where there is none."""
    fs, inner = filesystem(path)
    fs.invalidate_cache()
    if _protocol(fs) in _ATOMIC_PUT and glob.has_magic(inner):
        # There, rm takes it for a pattern: of run[1] it would delete run1.
        for name in fs.find(inner):
            fs.rm_file(name)
        return
    with contextlib.suppress(FileNotFoundError):
        fs.rm(inner, recursive=True)


def delete_file(path: str) -> None:
    """Delete one file, by one request and without looking what is there; nothing happens where there is none."""
    fs, inner = filesystem(path)
    with contextlib.suppress(FileNotFoundError):
        fs.rm_file(inner)
