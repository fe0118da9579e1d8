"""What `prepare` would do, without doing it: what it checks before it touches rows, and whether the dataset is there.

Runs on the driver; starts no job and writes nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sparkdl import storage
from sparkdl.data.prepare.prepare import check_arguments, check_columns, check_folder, find_same, used_columns
from sparkdl.data.prepare_config import PrepareConfig

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

__all__ = ["preview_prepare"]


def preview_prepare(df: DataFrame, config: PrepareConfig) -> dict[str, Any]:
    """What `prepare` would do: `path`, the types of the raw `columns` that it reads, and `state`.

    The state is "new", "finished", "replaces another one", or "finished if its rows are the same": only a pass over the
    rows can tell, and it is not made here.

    Raises what `prepare` raises before it reads rows.
    """
    check_arguments(df, config)
    path = storage.absolute(config.path)
    names = used_columns(config)
    check_columns(df, names)
    there = check_folder(path)
    found, by_content = find_same(df, config, path)
    another = "finished if its rows are the same" if by_content else "replaces another one"
    state = another if there else "new"
    return {
        "path": path,
        "state": "finished" if found is not None else state,
        "columns": {name: df.schema[name].dataType.simpleString() for name in names},
    }
