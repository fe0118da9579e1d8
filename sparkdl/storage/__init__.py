"""Read and write files on local disks and in object stores: `storage.join`, `storage.read_bytes`, …

The functions of `paths`, under a name that reads well at their calls.
"""

from sparkdl.storage.paths import (
    ASIDE,
    absolute,
    delete,
    delete_file,
    discard,
    download,
    exists,
    filesystem,
    is_local,
    join,
    listing,
    make_folder,
    modified,
    read_bytes,
    renames,
    sizes,
    sync,
    touch,
    write_atomic,
    write_from,
)

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
