"""Write the metrics of every epoch for TensorBoard.

Runs in the process of rank 0, as a callback. Names and folders are those of Keras' own TensorBoard callback, so that
the curves of training and validation share a chart: `train/` and `validation/`, `epoch_loss` and so on.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import tensorflow as tf

from sparkdl import storage
from sparkdl.storage import folders
from sparkdl.train.run.record import Recorded, scalars

__all__ = ["TensorBoardFiles"]

log = logging.getLogger(__name__)

# The end of the names of these files; a TensorBoard callback of the user's may write to the same folders.
_SUFFIX = ".sparkdl.v2"
_TRAIN, _VALIDATION = "train", "validation"


class TensorBoardFiles(keras.callbacks.Callback):  # type: ignore[misc]
    """Keep TensorBoard's event files equal to the history.

    Each launch rewrites the earlier epochs from the history that it continues: files of an interrupted launch may hold
    epochs that are trained again. Files that cannot be written do not stop a run: the metrics are in the history, and
    later epochs or the next launch write what is missing. For a URL the files are written to a local folder and copied.
    """

    def __init__(self, folder: str, recorded: Recorded) -> None:
        super().__init__()
        self._folder = folder
        self._recorded = recorded
        self._copied = None if storage.is_local(folder) else tempfile.TemporaryDirectory(prefix="sparkdl-tensorboard-")
        self._writers: dict[str, Any] = {}

    def on_train_begin(self, logs: Any = None) -> None:
        with self._warning():
            for name in (_TRAIN, _VALIDATION):
                for file in storage.listing(storage.join(self._folder, name)):
                    if file.endswith(_SUFFIX):
                        storage.delete_file(storage.join(self._folder, name, file))
            self._write(self._recorded.history)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        with self._warning():
            self._write(self._recorded.history[-1:])

    def on_train_end(self, logs: Any = None) -> None:
        with self._warning():
            for writer in self._writers.values():
                writer.close()
        if self._copied is not None:
            self._copied.cleanup()

    def _write(self, history: Sequence[Mapping[str, Any]]) -> None:
        for record in history:
            for name, value in scalars(record).items():
                is_validation = name.startswith("val_")
                with self._writer(_VALIDATION if is_validation else _TRAIN).as_default():
                    tf.summary.scalar(f"epoch_{_name(name)}", value, step=record["epoch"])
        for writer in self._writers.values():
            writer.flush()
        if self._copied is not None and history:
            folders.upload_folder(self._copied.name, self._folder)

    def _writer(self, name: str) -> Any:
        if name not in self._writers:
            folder = os.path.join(self._folder if self._copied is None else self._copied.name, name)
            self._writers[name] = tf.summary.create_file_writer(folder, filename_suffix=_SUFFIX)
        return self._writers[name]

    @contextmanager
    def _warning(self) -> Iterator[None]:
        try:
            yield
        except (OSError, tf.errors.OpError) as error:
            log.warning("files for TensorBoard in %s cannot be written: %s", self._folder, error)


def _name(metric: str) -> str:
    """Return the name under which Keras writes a metric."""
    return "learning_rate" if metric == "lr" else metric.removeprefix("val_")
