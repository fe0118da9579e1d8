"""See that a model file is the one that was asked for; from an object store, bring it to each executor once.

Runs in Spark workers: at the start of each task, whether the model is loaded already or not.
"""

from __future__ import annotations

import fcntl
import os
import uuid

from sparkdl import storage
from sparkdl.errors import ModelError
from sparkdl.model.load import checked
from sparkdl.model.signature import MODEL_NAME

__all__ = ["check_file", "executor_copy", "file_state"]

_STATE_NAME = "state"


def file_state(model_dir: str) -> str:
    """What the store tells of the model file now: whoever replaces it changes this. One look, nothing is read.

    Raises ModelError if there is none.
    """
    path = storage.join(model_dir, MODEL_NAME)
    fs, inner = storage.filesystem(path)
    try:
        if storage.is_local(path):
            # Opened, since NFS may answer from memory otherwise. The change time and the number of the file differ even
            # where size and date were made equal.
            with open(inner, "rb") as file:
                told = os.fstat(file.fileno())
            return f"{told.st_dev} {told.st_ino} {told.st_size} {told.st_mtime_ns} {told.st_ctime_ns}"
        fs.invalidate_cache()
        info = fs.info(inner)
    except FileNotFoundError as error:
        raise ModelError(f"no model at {model_dir}: it has no {MODEL_NAME}") from error
    known = ("ETag", "etag", "generation", "mtime", "LastModified", "last_modified", "updated")
    tags = [str(info[key]) for key in known if key in info]
    return " ".join([str(info["size"]), *tags])


def check_file(model_dir: str, content_hash: str, state: str) -> None:
    """Raise ModelError unless the model file, which is in another state than when it was loaded, has the same hash."""
    if not storage.is_local(model_dir):
        executor_copy(model_dir, content_hash, state)
        return
    path = storage.join(model_dir, MODEL_NAME)
    with open(path, "rb") as file:
        checked(file, path, content_hash)


def executor_copy(model_dir: str, content_hash: str, state: str) -> str:
    """The model directory, or for a URL a local folder that holds its model file as it is in this state.

    The copy lies in the executor's folder for files, which Spark deletes when the executor ends. Raises ModelError if
    the file has another hash.
    """
    if storage.is_local(model_dir):
        return model_dir
    from pyspark import SparkFiles

    folder = os.path.join(SparkFiles.getRootDirectory(), f"sparkdl-model-{content_hash[:16]}")
    os.makedirs(folder, exist_ok=True)
    file, known = os.path.join(folder, MODEL_NAME), os.path.join(folder, _STATE_NAME)
    wanted = f"{model_dir} {state}".encode()
    with open(os.path.join(folder, "lock"), "w") as lock:
        # The first worker brings it, the others wait.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not os.path.exists(known) or storage.read_bytes(known) != wanted:
            source, aside = storage.join(model_dir, MODEL_NAME), f"{file}.{uuid.uuid4().hex}{storage.ASIDE}"
            try:
                storage.download(source, aside)
            except FileNotFoundError as error:
                raise ModelError(f"no model at {model_dir}: it has no {MODEL_NAME}") from error
            try:
                with open(aside, "rb") as copy:
                    checked(copy, source, content_hash)
                os.replace(aside, file)
            except ModelError:
                os.remove(aside)
                raise
            storage.write_atomic(known, wanted, durable=False)
    return folder
