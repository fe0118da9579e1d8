"""What `prepare` would do, without doing it: what it checks before it touches rows, and whether the dataset is there.

Runs on the driver; starts no job and writes nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sparkdl import storage
from sparkdl.config import PrepareConfig
from sparkdl.data.prepare import check_arguments, check_columns, check_folder, find_same, used_columns

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

__all__ = ["preview_prepare"]


def preview_prepare(df: DataFrame, config: PrepareConfig) -> dict[str, Any]:
    """What `prepare` would do: `state` ("new", "replaces another one" or "finished"), `path`, and the types of the raw
    `columns` that it reads.

    Raises what `prepare` raises before it reads rows.
    """
    check_arguments(df, config)
    path = storage.absolute(config.path)
    names = used_columns(config)
    check_columns(df, names)
    there = check_folder(path)
    state = "replaces another one" if there else "new"
    return {
        "path": path,
        "state": "finished" if find_same(df, config, path) is not None else state,
        "columns": {name: df.schema[name].dataType.simpleString() for name in names},
    }
