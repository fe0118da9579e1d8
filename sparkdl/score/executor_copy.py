"""Bring a model from an object store to each executor once, however many Python workers it has.

Runs in Spark workers.
"""

from __future__ import annotations

import fcntl
import os
import uuid

from sparkdl import storage
from sparkdl.errors import ModelError
from sparkdl.model.load import checked
from sparkdl.model.signature import MODEL_NAME

__all__ = ["executor_copy"]


def executor_copy(model_dir: str, content_hash: str) -> str:
    """The model directory, or for a URL a local folder that holds its model file.

    The copy lies in the executor's folder for files, which Spark deletes when the executor ends. Raises ModelError if
    the file has another hash.
    """
    if storage.is_local(model_dir):
        return model_dir
    from pyspark import SparkFiles

    folder = os.path.join(SparkFiles.getRootDirectory(), f"sparkdl-model-{content_hash[:16]}")
    os.makedirs(folder, exist_ok=True)
    file = os.path.join(folder, MODEL_NAME)
    with open(os.path.join(folder, "lock"), "w") as lock:
        # The first worker brings it, the others wait.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not os.path.exists(file):
            source, aside = storage.join(model_dir, MODEL_NAME), f"{file}.{uuid.uuid4().hex}{storage.ASIDE}"
            try:
                storage.download(source, aside)
            except FileNotFoundError as error:
                raise ModelError(f"no model at {model_dir}: it has no {MODEL_NAME}") from error
            with open(aside, "rb") as copy:
                checked(copy, source, content_hash)
            os.replace(aside, file)
    return folder
