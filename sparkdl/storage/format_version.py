"""Check `format_version`, which every file that outlives the library's version carries.

Called where a manifest, a signature or a checkpoint is read: on the driver, in Spark workers and in ranks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sparkdl.checks import is_whole
from sparkdl.errors import SparkDLError, shown

__all__ = ["check_format_version"]


def check_format_version(content: Mapping[str, Any], *, path: str, newest: int, error: type[SparkDLError]) -> None:
    """Raise `error` if what was read at `path` has no format version that this library reads: 1 to `newest`."""
    version = content.get("format_version")
    if not is_whole(version, 1, newest):
        raise error(
            f"{path} has format_version {shown(version)}; this version of sparkdl reads up to {newest}: update sparkdl"
        )
