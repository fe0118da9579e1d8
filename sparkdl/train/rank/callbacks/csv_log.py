"""Let Keras' CSVLogger continue its file when a run is continued, without writing an epoch twice.

Runs in rank 0, which writes the file.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence
from typing import Any

import keras

from sparkdl.train.run.checkpoint import Checkpoint

__all__ = ["continue_csv_logs", "csv_log_sizes", "keep_columns"]


def csv_log_sizes(callbacks: Sequence[Any]) -> dict[str, int]:
    """Return by path the bytes of each file that a CSVLogger has written so far."""
    return {path: os.path.getsize(path) for path, _ in _logs(callbacks) if os.path.isfile(path)}


def continue_csv_logs(callbacks: Sequence[Any], resumed: Checkpoint | None) -> None:
    """Let CSVLoggers append, each to its file as it was at the checkpoint. Called before training continues.

    Lines after the checkpoint are cut off: their epochs are trained again. For a new run Keras' defaults stay.
    """
    if resumed is None:
        return
    sizes = resumed.facts.get("csv_logs", {})
    for path, callback in _logs(callbacks):
        callback.append = True
        if path in sizes and os.path.isfile(path) and os.path.getsize(path) > sizes[path]:
            _cut(path, sizes[path])


def keep_columns(callbacks: Sequence[Any]) -> None:
    """Let CSVLoggers that append write the columns of their file's header. Called after their `on_train_begin`.

    Keras would choose the columns by the first epoch, which may be one without validation.
    """
    for path, callback in _logs(callbacks):
        callback.keys = _columns(path, callback.sep)


def _cut(path: str, size: int) -> None:
    """Truncate a file to `size` bytes if a line ends there; else others have changed the file, and it stays."""
    with open(path, "rb+") as file:
        file.seek(max(size - 1, 0))
        if size == 0 or file.read(1) == b"\n":
            file.truncate(size)


def _columns(path: str, separator: str) -> list[str] | None:
    """Return the columns of a CSVLogger's file after the first, "epoch"; None if the file has no such header."""
    if not os.path.isfile(path):
        return None
    with open(path, newline="", encoding="utf-8") as file:
        header = next(csv.reader(file, delimiter=separator), [])
    return header[1:] if header[:1] == ["epoch"] else None


def _logs(callbacks: Sequence[Any]) -> Iterator[tuple[str, Any]]:
    for callback in callbacks:
        if isinstance(callback, keras.callbacks.CSVLogger):
            yield os.path.abspath(callback.filename), callback
