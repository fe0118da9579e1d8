"""Load a model directory and predict on raw values, without Spark.

Runs on the driver, in Spark workers (the UDF) and in ranks (evaluate). Keras is imported when a model is loaded.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
from packaging.version import Version

from sparkdl import storage
from sparkdl.checks import require_whole
from sparkdl.data.features.columns import raw_values
from sparkdl.errors import ModelError, SchemaError, near_miss
from sparkdl.imports import load_tensorflow
from sparkdl.model.batches import Batcher
from sparkdl.model.custom_objects import (
    check_custom_objects,
    found_objects,
    missing_objects,
    registered,
    taken_by_keras,
)
from sparkdl.model.outputs import flat_outputs
from sparkdl.model.save import model_inputs, one_line
from sparkdl.model.signature import MODEL_NAME, SIGNATURE_NAME, Signature, sha256

__all__ = ["LoadedModel", "checked", "compilation_of", "float_of", "load_keras", "load_model"]

log = logging.getLogger(__name__)

DEFAULT_BATCH_SIZE = 1024


class LoadedModel:
    """Predict with a trained model in memory. Made by `load_model`.

    Attributes:
        keras_model: the Keras model, compiled as the user compiled it if its loss, metrics and optimizer can be loaded
            here; prediction does not need these.
        signature: the description of its inputs and outputs.
    """

    def __init__(self, keras_model: Any, signature: Signature) -> None:
        self.keras_model = keras_model
        self.signature = signature
        self._forward: Any = None

    def encode(self, columns: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Encode raw columns (Arrow, or sequences of values) as the model's inputs, each of shape ``(rows, *shape)``.

        Raises SchemaError for a missing column and for values that the encoder refuses.
        """
        for name in self.signature.input_names:
            if name not in columns:
                raise SchemaError(f"input column {name!r} is missing{near_miss(name, columns)}")
        return {encoder.name: encoder.encode(raw_values(encoder, columns)) for encoder in self.signature.inputs}

    def predict_batch(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Predict encoded inputs by one call of the model: outputs by name, each of shape ``(rows, *shape)``.

        One graph computes any number of rows; a number that was not seen before takes longer. Raises ModelError for
        outputs that do not have these shapes.
        """
        import tensorflow as tf

        encoders = self.signature.inputs
        if self._forward is None:
            # A traced function, called directly, costs a tenth of Model.predict's overhead per call.
            specs = {
                e.name: tf.TensorSpec((None, *e.shape), e.dtype, name=f"input_{i}") for i, e in enumerate(encoders)
            }
            forward = tf.function(lambda given: self.keras_model(given, training=False), autograph=False)
            with float_of(self.signature):
                self._forward = forward.get_concrete_function(model_inputs(encoders, specs))
        tensors = {name: tf.convert_to_tensor(value) for name, value in inputs.items()}
        results = flat_outputs(self._forward(model_inputs(encoders, tensors)))
        rows = len(next(iter(inputs.values())))
        found = {}
        for output, value in zip(self.signature.outputs, results, strict=True):
            if tuple(value.shape) != (rows, *output.shape):
                raise ModelError(
                    f"output {output.name!r} is of shape {tuple(value.shape)} for {rows} rows, not "
                    f"{(rows, *output.shape)}: each row must have separate values, all of one shape"
                )
            found[output.name] = value.numpy().astype(output.numpy_dtype, copy=False)
        return found

    def predict_encoded(self, inputs: Mapping[str, np.ndarray], *, batch_size: int) -> dict[str, np.ndarray]:
        """Predict encoded inputs of any number of rows, in batches as scoring makes them; as `predict_batch` does."""
        batcher = Batcher(batch_size)
        pieces = [{o.name: np.empty((0, *o.shape), o.numpy_dtype) for o in self.signature.outputs}]
        for batch in (*batcher.add(inputs), *batcher.rest()):
            pieces.append({name: value[: batch.rows] for name, value in self.predict_batch(batch.inputs).items()})
        return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}

    def predict(self, rows: pa.Table | Mapping[str, Any], *, batch_size: int = DEFAULT_BATCH_SIZE) -> Any:
        """Predict raw rows.

        Args:
            rows: an Arrow table, or a dict of columns (sequences, numpy or Arrow arrays), with the raw values.
            batch_size: the rows of one call of the model.

        Returns:
            A numpy array of shape ``(rows, *output shape)``; a dict of such arrays by output for a model with
            several outputs.

        Raises:
            SchemaError: a column is missing or holds values that its encoder refuses.
            ConfigError: `batch_size` is not a whole number of at least 1.
        """
        require_whole("batch_size", batch_size)
        columns = {name: rows.column(name) for name in rows.column_names} if isinstance(rows, pa.Table) else rows
        inputs = self.encode(columns)
        counts = {name: len(value) for name, value in inputs.items()}
        if len(set(counts.values())) != 1:
            raise SchemaError(f"columns differ in length: {counts}")
        results = self.predict_encoded(inputs, batch_size=batch_size)
        return results if len(results) > 1 else next(iter(results.values()))


def load_model(
    model_dir: str, *, custom_objects: Mapping[str, Any] | None = None, safe_mode: bool = True
) -> LoadedModel:
    """Load the model in a directory that training, or `save_model`, wrote.

    Args:
        model_dir: a folder or URL, as in `result.model_dir`.
        custom_objects: your own classes and functions in the model, by name; not needed for those that are registered
            with `keras.saving.register_keras_serializable` in a module that is imported already.
        safe_mode: True runs no code that comes with the model. False allows Python lambdas, as in Keras, and imports
            the modules of your own classes and functions, and of the tokenizers of `Text`.

    Raises:
        ModelError: the model is missing or incomplete, or Keras cannot load it.
        ConfigError: `custom_objects` is not a dict of classes and functions.
    """
    check_custom_objects(custom_objects)
    model_dir = storage.absolute(model_dir)
    signature = Signature.read(model_dir)
    signature.check_tokenizers(safe_mode=safe_mode)
    try:
        keras_model = load_keras(model_dir, signature, custom_objects=custom_objects, safe_mode=safe_mode)
    except ModelError as error:
        keras_model = load_keras(
            model_dir, signature, custom_objects=custom_objects, safe_mode=safe_mode, compiled=False
        )
        log.warning("the model is loaded for prediction only: %s", error)
    return LoadedModel(keras_model, signature)


def load_keras(
    model_dir: str,
    signature: Signature,
    *,
    custom_objects: Mapping[str, Any] | None = None,
    safe_mode: bool = True,
    compiled: bool = True,
) -> Any:
    """Load the bare Keras model of a model directory, under the default float of its training. Raises ModelError."""
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    load_tensorflow()
    import keras

    path = storage.join(model_dir, MODEL_NAME)
    objects = found_objects(signature.custom_objects, custom_objects, import_modules=not safe_mode)
    saved_by = "0"
    try:
        with float_of(signature), registered(objects), _unpacked(path, signature.content_hash) as unpacked:
            saved_by = str(_json_of(unpacked, "metadata.json").get("keras_version", "0"))
            config = _json_of(unpacked, "config.json")
            needed = config if compiled else {key: config[key] for key in config if key != "compile_config"}
            if taken := taken_by_keras(signature.custom_objects, objects, needed):
                raise ModelError(f"Keras cannot load {path}: {taken}")
            return keras.saving.load_model(unpacked, safe_mode=safe_mode, compile=compiled)
    except ModelError:
        raise
    except Exception as error:
        why = missing_objects(signature.custom_objects, objects)
        if not why and Version(saved_by) > Version(keras.__version__):
            why = f"Keras {saved_by} saved it, and this is Keras {keras.__version__}; install keras>={saved_by}"
        is_lambda = "safe_mode" in str(error)
        hint = "; it holds Python code: load it with safe_mode=False if you trust it" if is_lambda else ""
        raise ModelError(f"Keras cannot load {path}: {why or one_line(error) + hint}") from error


def compilation_of(model_dir: str, signature: Signature) -> dict[str, Any]:
    """Return as JSON how the model of a directory is compiled; {} for one that is not."""
    with _unpacked(storage.join(model_dir, MODEL_NAME), signature.content_hash) as unpacked:
        return _json_of(unpacked, "config.json").get("compile_config") or {}


@contextlib.contextmanager
def float_of(signature: Signature) -> Iterator[None]:
    """Set Keras' default float to that of the model's training within the block: layers may read it when called."""
    import keras

    own = keras.config.floatx()
    keras.config.set_floatx(signature.floatx)
    try:
        yield
    finally:
        keras.config.set_floatx(own)


def _json_of(unpacked: str, name: str) -> dict[str, Any]:
    """Read a JSON file of a model, which is a file or its unpacked folder; {} if it cannot be read."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        if os.path.isdir(unpacked):
            return dict(json.loads(Path(unpacked, name).read_bytes()))
        with zipfile.ZipFile(unpacked) as archive:
            return dict(json.loads(archive.read(name)))
    return {}


@contextlib.contextmanager
def _unpacked(path: str, content_hash: str) -> Iterator[str]:
    """Provide the model as a local folder or file that Keras reads without holding all of it in memory."""
    with tempfile.TemporaryDirectory(prefix="sparkdl-model-") as folder:
        file, unpacked = path, os.path.join(folder, "model")
        if not storage.is_local(path):
            file = os.path.join(folder, MODEL_NAME)
            storage.download(path, file)
        with open(file, "rb") as handle, zipfile.ZipFile(checked(handle, path, content_hash)) as archive:
            if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
                # Not written by sparkdl: Keras has guards against files that grow when they are unpacked.
                yield file
                return
            archive.extractall(unpacked)
        if file != path:
            os.remove(file)
        yield unpacked


def checked(handle: IO[bytes], path: str, content_hash: str) -> IO[bytes]:
    """Return the open model file at its start. Raises ModelError if it has another hash: it was changed or replaced."""
    if sha256(handle) != content_hash:
        raise ModelError(
            f"{path} is not the file that its {SIGNATURE_NAME} tells of (their SHA-256 differ): it was changed, cut "
            "off or replaced; save the model again, or make the UDF again for the new one"
        )
    handle.seek(0)
    return handle
