"""Cache the models of a Spark worker process: each loaded once, kept from task to task, the oldest dropped for new.

Runs in Spark workers. The cache is in an importable module, not in the UDF's closure, so that loaded models survive the
task.
"""

from __future__ import annotations

import fcntl
import functools
import gc
import json
import os
import uuid
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import cloudpickle
import numpy as np

from sparkdl import storage
from sparkdl.errors import ModelError
from sparkdl.imports import without_optional_imports
from sparkdl.model.batches import small_batch
from sparkdl.model.load import LoadedModel, checked, load_keras
from sparkdl.model.save import one_line
from sparkdl.model.signature import MODEL_NAME, SIGNATURE_NAME, Signature
from sparkdl.score.own_code import OwnCode, check_code
from sparkdl.score.worker.device import prepare_tensorflow
from sparkdl.score.worker.metrics import Figures
from sparkdl.score.worker.spec import ScoreSpec

__all__ = ["MODELS_BYTES", "file_state", "loaded_model", "loaded_signature"]

# The bytes of weights that a worker process keeps; the model in use stays, however large.
MODELS_BYTES = 2 << 30


@dataclass(frozen=True, slots=True)
class _Held:
    model: LoadedModel
    weights_bytes: int


# The models by content and code: defining a UDF again loads nothing again. The least recently used comes first.
_MODELS: OrderedDict[tuple[str, bool, bytes, OwnCode, str], _Held] = OrderedDict()

# By model directory: the hash of its model file, and the state of the file when it was seen to have this hash.
_FILES: dict[str, tuple[str, str]] = {}


def loaded_signature(task: ScoreSpec) -> Signature:
    """Read the signature once in each Spark task; return it if it is the signature that the driver read.

    Raises ModelError if the model directory now holds another signature, or none.
    """
    from pyspark import TaskContext

    context = TaskContext.get()
    # Outside of Spark tasks it is read each time.
    return _signature_of_attempt(task, object() if context is None else context.taskAttemptId())


@functools.lru_cache(maxsize=16)
def _signature_of_attempt(task: ScoreSpec, attempt: object) -> Signature:
    path = storage.join(task.model_dir, SIGNATURE_NAME)
    try:
        return _signature_in(task, storage.read_bytes(path))
    except FileNotFoundError as error:
        raise ModelError(f"no model at {task.model_dir} any more: it has no {SIGNATURE_NAME}") from error
    except (ValueError, KeyError, TypeError, AttributeError, NotADirectoryError) as error:
        raise ModelError(f"{path} cannot be read ({one_line(error)}); save the model again") from error


@functools.lru_cache(maxsize=16)
def _signature_in(task: ScoreSpec, text: bytes) -> Signature:
    """Parse a signature. Raises ModelError if the driver read another signature."""
    signature = Signature.from_json(json.loads(text), path=storage.join(task.model_dir, SIGNATURE_NAME))
    if signature.digest != task.digest:
        raise ModelError(
            f"{task.model_dir} holds another model than when the UDF was made; make the UDF again (register_udf, "
            "predict_udf or transform), or write new models to separate folders"
        )
    return signature


def loaded_model(task: ScoreSpec, figures: Figures) -> LoadedModel:
    """Return the task's model, loaded at its first use in this process.

    Each call checks the model file and the user's code, whether the model is loaded already or not: workers that have
    loaded the model and workers that have not behave alike.

    Raises ModelError, ConfigError (device).
    """
    signature = loaded_signature(task)
    state = file_state(task.model_dir)
    key = (task.digest, task.safe_mode, task.custom_objects, task.code, task.device)
    if key in _MODELS:
        if _FILES.get(task.model_dir) != (signature.content_hash, state):
            check_file(task.model_dir, signature.content_hash, state)
        check_code(task.code, task.model_dir)
        _FILES[task.model_dir] = signature.content_hash, state
        _MODELS.move_to_end(key)
        return _MODELS[key].model
    with figures.timed("load_seconds"), _without_collections():
        with without_optional_imports():
            prepare_tensorflow(task.device)  # TensorFlow imports Keras
        model = _load(task, signature, state)
        check_code(task.code, task.model_dir)
        _FILES[task.model_dir] = signature.content_hash, state
        _MODELS[key] = _Held(model, _weights_bytes(model))
        while len(_MODELS) > 1 and sum(held.weights_bytes for held in _MODELS.values()) > MODELS_BYTES:
            _MODELS.popitem(last=False)
            # Keras' objects refer to one another in cycles: frozen, they would never be freed.
            gc.unfreeze()
    figures.add("model_loads", 1)
    return model


@contextmanager
def _without_collections() -> Iterator[None]:
    """Disable garbage collection in the block; at its end freeze all objects, so that later collections skip them.

    TensorFlow, Keras and a model make a million objects that stay. Python would scan them again and again while they
    are made, and PySpark collects garbage at each task's end, which would take 0.17 s.
    """
    collected = gc.isenabled()
    gc.disable()
    try:
        yield
        gc.collect()
        gc.freeze()
    finally:
        if collected:
            gc.enable()


def _load(task: ScoreSpec, signature: Signature, state: str) -> LoadedModel:
    keras_model = load_keras(
        executor_copy(task.model_dir, signature.content_hash, state),
        signature,
        custom_objects=cloudpickle.loads(task.custom_objects),
        safe_mode=task.safe_mode,
        compiled=False,
    )
    model = LoadedModel(keras_model, signature)
    # Traced and tried now, so that the first rows need not wait for the trace while Spark waits for them.
    rows = small_batch(task.batch_size)
    try:
        model.predict_batch({e.name: np.zeros((rows, *e.shape), e.dtype) for e in signature.inputs})
    except Exception as error:
        raise ModelError(f"the model in {task.model_dir} fails on zeros: {one_line(error)}") from error
    return model


def _weights_bytes(model: LoadedModel) -> int:
    import tensorflow as tf

    return sum(int(np.prod(v.shape)) * tf.as_dtype(v.dtype).size for v in model.keras_model.variables)


def file_state(model_dir: str) -> str:
    """Return the metadata of the model file as text, by one request: it changes when the file is replaced.

    Raises ModelError if the model file is missing.
    """
    path = storage.join(model_dir, MODEL_NAME)
    fs, inner = storage.filesystem(path)
    try:
        if storage.is_local(path):
            # Opened, since NFS may answer from memory otherwise. The change time and the number of the file differ even
            # where size and date were made equal.
            with open(inner, "rb") as file:
                stat = os.fstat(file.fileno())
            return f"{stat.st_dev} {stat.st_ino} {stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}"
        fs.invalidate_cache()
        info = fs.info(inner)
    except FileNotFoundError as error:
        raise ModelError(f"no model at {model_dir}: it has no {MODEL_NAME}") from error
    known = ("ETag", "etag", "generation", "mtime", "LastModified", "last_modified", "updated")
    tags = [str(info[key]) for key in known if key in info]
    return " ".join([str(info["size"]), *tags])


def check_file(model_dir: str, content_hash: str, state: str) -> None:
    """Raise ModelError if the model file, whose state has changed since it was loaded, has another hash."""
    if not storage.is_local(model_dir):
        executor_copy(model_dir, content_hash, state)
        return
    path = storage.join(model_dir, MODEL_NAME)
    with open(path, "rb") as file:
        checked(file, path, content_hash)


def executor_copy(model_dir: str, content_hash: str, state: str) -> str:
    """Return the model directory, or for a URL a local folder with a copy of its model file in this state.

    The copy is in the executor's folder for files, which Spark deletes when the executor ends. Raises ModelError if
    the file has another hash.
    """
    if storage.is_local(model_dir):
        return model_dir
    from pyspark import SparkFiles

    folder = os.path.join(SparkFiles.getRootDirectory(), f"sparkdl-model-{content_hash[:16]}")
    os.makedirs(folder, exist_ok=True)
    file, known = os.path.join(folder, MODEL_NAME), os.path.join(folder, "state")
    wanted = f"{model_dir} {state}".encode()
    with open(os.path.join(folder, "lock"), "w") as lock:
        # The first worker downloads the file, the others wait.
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
