"""Read and write files on any fsspec path, with an atomic write; `folders` is for whole folders.

Called by all rooms, on the driver, in Spark workers and in ranks, as `storage.join`, `storage.read_bytes`, …: the names
read well after the package's. A path is a local path or a URL (`s3://…`; Hadoop's `s3a://…` names the same objects).
Each process's environment says where a store is and who may read it.
"""

from __future__ import annotations

import contextlib
import glob
import os
import posixpath
import re
import uuid
from datetime import datetime
from typing import IO, Any

import fsspec

from sparkdl.errors import ConfigError

__all__ = [
    "ASIDE",
    "absolute",
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
    "read_bytes",
    "renames",
    "sizes",
    "sync",
    "touch",
    "write_atomic",
    "write_from",
]

# The suffix of a file that waits to be renamed; a killed process leaves such a file behind.
ASIDE = ".aside"

# One PUT replaces an object as a whole.
_ATOMIC_PUT = ("s3", "s3a", "gs", "gcs", "abfs", "az")
_LOCAL = ("file", "local")
# These refuse to rename over a file.
_NO_OVERWRITE = ("hdfs", "webhdfs")
# Bytes of a copy that are held in memory; s3fs would hold 50 MiB.
_COPY_BYTES = 8 << 20


def filesystem(path: str) -> tuple[Any, str]:
    """Return the fsspec filesystem of `path`, and the path as that filesystem names it."""
    fs, inner = fsspec.core.url_to_fs(path)
    return fs, inner


def _protocol(fs: Any) -> str:
    return str(fs.protocol if isinstance(fs.protocol, str) else fs.protocol[0])


def is_local(path: str) -> bool:
    """Tell whether `path` lies on this machine's own filesystem."""
    return "://" not in path or path.startswith("file://")


def renames(path: str) -> bool:
    """Tell whether the storage of `path` gives a folder another name in one step; object stores copy each file."""
    return _protocol(filesystem(path)[0]) not in _ATOMIC_PUT


def absolute(path: str | os.PathLike[str]) -> str:
    """Return `path` as every process understands it: local paths absolute (executors have other working folders).

    Raises ConfigError for a value that is not a path, and for a path that other processes cannot see.
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
    """Return `path/name/…`, for local paths and URLs alike."""
    return posixpath.join(path, *names)


def exists(path: str) -> bool:
    """Tell whether a file or folder exists."""
    fs, inner = filesystem(path)
    fs.invalidate_cache()
    return bool(fs.exists(inner))


def listing(path: str) -> list[str]:
    """List the names (not paths) in a folder, sorted; empty if the folder does not exist."""
    fs, inner = filesystem(path)
    fs.invalidate_cache()
    try:
        return sorted(posixpath.basename(name.rstrip("/")) for name in fs.ls(inner, detail=False))
    except FileNotFoundError:
        return []


def sizes(path: str) -> dict[str, int]:
    """Return the size in bytes of each file in a folder, by name; empty if the folder does not exist."""
    fs, inner = filesystem(path)
    fs.invalidate_cache()
    try:
        found = fs.ls(inner, detail=True)
    except FileNotFoundError:
        return {}
    return {posixpath.basename(entry["name"]): int(entry["size"]) for entry in found if entry["type"] == "file"}


def modified(path: str) -> datetime:
    """Return the time when a file was last written, by the clock of its file system. Raises FileNotFoundError."""
    fs, inner = filesystem(path)
    fs.invalidate_cache()
    return fs.modified(inner)


def touch(path: str) -> None:
    """Make an empty file; a file that exists counts as written now."""
    fs, inner = filesystem(path)
    fs.touch(inner)


def make_folder(path: str) -> None:
    """Make a folder and its parents; nothing happens where it exists (object stores have no folders)."""
    fs, inner = filesystem(path)
    fs.makedirs(inner, exist_ok=True)


def read_bytes(path: str) -> bytes:
    """Return a file's content. Raises FileNotFoundError."""
    fs, inner = filesystem(path)
    # A cached listing may hold the size that a file had before it was replaced.
    fs.invalidate_cache()
    return bytes(fs.cat_file(inner))


def write_atomic(path: str, content: bytes, *, durable: bool = True) -> None:
    """Write a file so that a reader sees the old content or the new, never a part.

    Local files are written aside and renamed; an object store's PUT is atomic by itself. HDFS refuses to rename over a
    file: there, a reader may find no file for a moment. With `durable=False`, for content that need not survive a
    power failure, the write does not wait for a disk that others keep busy.
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
                sync(posixpath.dirname(inner))
            return
        if protocol in _NO_OVERWRITE and fs.exists(inner):
            fs.rm(inner)
        fs.mv(aside, inner)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            fs.rm(aside)
        raise


def sync(path: str) -> None:
    """Make a local file's content, or the names in a local folder, survive a power failure."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_from(path: str, source: IO[bytes], size: int) -> None:
    """Write the first `size` bytes of an open local file, which may grow meanwhile; its position does not matter.

    An object store keeps the old object until the new one is complete. Elsewhere the file is written in place.
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
        with contextlib.suppress(Exception):  # the first error says more
            discard(handle, path)
        raise


def discard(handle: Any, path: str) -> None:
    """Close a file that is being written without keeping it; an object store forgets the parts that it has so far."""
    fs, _ = filesystem(path)
    if _protocol(fs) in _ATOMIC_PUT:
        handle.discard()
        # Its destructor would complete the upload otherwise.
        handle.closed = True
        return
    handle.close()
    delete(path)


def download(path: str, local_file: str) -> None:
    """Copy a file to this machine, piece by piece: the file may be larger than the memory. Raises FileNotFoundError."""
    fs, inner = filesystem(path)
    fs.invalidate_cache()
    # Some filesystems leave an empty file where there is nothing to copy.
    if not fs.exists(inner):
        raise FileNotFoundError(path)
    fs.get_file(inner, local_file)


def delete(path: str) -> None:
    """Delete a file or a whole folder; nothing happens if the path does not exist."""
    fs, inner = filesystem(path)
    fs.invalidate_cache()
    if _protocol(fs) in _ATOMIC_PUT and glob.has_magic(inner):
        # An object store's rm takes the path for a pattern: for run[1] it would delete run1.
        for name in fs.find(inner):
            fs.rm_file(name)
        return
    with contextlib.suppress(FileNotFoundError):
        fs.rm(inner, recursive=True)


def delete_file(path: str) -> None:
    """Delete one file, by one request and without a look at the path; nothing happens if the file does not exist."""
    fs, inner = filesystem(path)
    with contextlib.suppress(FileNotFoundError):
        fs.rm_file(inner)
