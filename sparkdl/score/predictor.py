"""The model in a Spark worker: loaded once per Python process, fed with batches of one size.

Runs in Spark workers. It lives in an importable module, not in the UDF's closure, so that the loaded model survives
from task to task.
"""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass

import cloudpickle
import pyarrow as pa

from sparkdl.errors import SchemaError
from sparkdl.model.load import LoadedModel, load_model
from sparkdl.model.signature import Signature
from sparkdl.score.outputs import prediction_column

__all__ = ["ScoreTask", "predict_batches"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreTask:
    """All that a worker needs to score; small, because it travels in the closure."""

    model_dir: str
    signature: Signature
    returns: str
    batch_size: int
    safe_mode: bool
    custom_objects: bytes
    """The user's own classes and functions by name, pickled once, so that equal ones are seen to be equal."""
    cores: int
    """Cores of a Spark task: the number of TensorFlow's threads."""
    time_zone: str
    """The session's when the UDF was made, for queries in which none is set: Spark gives pandas UDFs its clock."""


# The models of this Python process, by content: defining a UDF again does not load its model again.
_LOADED: dict[tuple[str, bool, bytes], LoadedModel] = {}


def loaded_model(task: ScoreTask) -> LoadedModel:
    """The task's model, loaded at its first use in this process."""
    key = (task.signature.content_hash, task.safe_mode, task.custom_objects)
    if key not in _LOADED:
        _quiet_and_pin_tensorflow(task.cores)
        own = cloudpickle.loads(task.custom_objects)
        _LOADED[key] = load_model(task.model_dir, custom_objects=own, safe_mode=task.safe_mode)
        # PySpark collects garbage at each task's end, over every object that TensorFlow made: 0.17 s. Frozen ones are
        # passed over.
        gc.collect()
        gc.freeze()
    return _LOADED[key]


def _quiet_and_pin_tensorflow(cores: int) -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["KERAS_BACKEND"] = "tensorflow"
    import tensorflow as tf

    try:
        tf.config.threading.set_intra_op_parallelism_threads(cores)
        tf.config.threading.set_inter_op_parallelism_threads(cores)
    except RuntimeError:
        log.info("TensorFlow already runs in this worker and keeps its threads")


def predict_batches(batches: Iterator[list[pa.Array]], task: ScoreTask) -> Iterator[pa.Array]:
    """Predictions for batches of raw columns, one Arrow column for each batch that comes in.

    Args:
        batches: the columns of the model's inputs, in order, a list for each Arrow batch.
        task: what to score with.
    """
    model = loaded_model(task)
    for columns in batches:
        check_count(columns, task.signature)
        named = dict(zip(task.signature.input_names, columns, strict=True))
        results = model.predict_encoded(model.encode(named), batch_size=task.batch_size)
        yield prediction_column(results, task.signature, task.returns)


def check_count(columns: list[pa.Array], signature: Signature) -> None:
    """Raise SchemaError if there are not as many columns as the model has inputs."""
    if len(columns) != len(signature.inputs):
        raise SchemaError(
            f"the model takes {len(signature.inputs)} columns ({', '.join(signature.input_names)}), "
            f"{len(columns)} were given"
        )
