"""Load a model directory and predict on raw values, without Spark.

Runs on the driver, in Spark workers (the UDF) and in ranks (evaluate). Keras is imported when a model is loaded.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from sparkdl import storage
from sparkdl.data.columns import as_array
from sparkdl.errors import ModelError, SchemaError, near_miss
from sparkdl.model.save import model_inputs
from sparkdl.model.signature import MODEL_NAME, Signature

__all__ = ["LoadedModel", "load_keras", "load_model"]

DEFAULT_BATCH_SIZE = 1024


class LoadedModel:
    """A trained model in memory. Made by `load_model`.

    Attributes:
        keras_model: the Keras model, compiled as the user compiled it.
        signature: its inputs and outputs.
    """

    def __init__(self, keras_model: Any, signature: Signature) -> None:
        import tensorflow as tf

        self.keras_model = keras_model
        self.signature = signature
        # One traced function, with the rows left open, costs a tenth of Model.predict's overhead per call.
        self._forward = tf.function(lambda inputs: keras_model(inputs, training=False), reduce_retracing=True)

    def encode(self, columns: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Raw columns (Arrow, or sequences of values) as the model's inputs, each of shape ``(rows, *shape)``.

        Raises SchemaError for a missing column and for values that the encoder refuses.
        """
        for name in self.signature.input_names:
            if name not in columns:
                raise SchemaError(f"input column {name!r} is missing{near_miss(name, columns)}")
        return {encoder.name: encoder.encode(as_array(columns[encoder.name])) for encoder in self.signature.inputs}

    def predict_encoded(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name, each of shape ``(rows, *shape)``, for encoded inputs of one batch."""
        import keras

        result = keras.tree.flatten(self._forward(model_inputs(self.signature.inputs, inputs)))
        return {output.name: value.numpy() for output, value in zip(self.signature.outputs, result, strict=True)}

    def predict(self, rows: pa.Table | Mapping[str, Any], *, batch_size: int = DEFAULT_BATCH_SIZE) -> Any:
        """Predictions for raw rows.

        Args:
            rows: an Arrow table, or a dict of columns (sequences, numpy or Arrow arrays), with the raw values.
            batch_size: rows of one call of the model.

        Returns:
            A numpy array of shape ``(rows, *output shape)``; a dict of them for a model with several outputs.

        Raises:
            SchemaError: a column is missing or holds what its encoder refuses.
        """
        columns = {name: rows.column(name) for name in rows.column_names} if isinstance(rows, pa.Table) else rows
        inputs = self.encode(columns)
        counts = {name: len(value) for name, value in inputs.items()}
        if len(set(counts.values())) != 1:
            raise SchemaError(f"columns differ in length: {counts}")
        total = next(iter(counts.values()))
        pieces = [
            self.predict_encoded({name: value[start : start + batch_size] for name, value in inputs.items()})
            for start in range(0, max(total, 1), batch_size)
        ]
        results = {o.name: np.concatenate([piece[o.name] for piece in pieces]) for o in self.signature.outputs}
        return results if len(results) > 1 else next(iter(results.values()))


def load_model(model_dir: str, *, safe_mode: bool = True) -> LoadedModel:
    """The model in a directory that training wrote.

    Args:
        model_dir: a folder or URL, as in `result.model_dir`.
        safe_mode: Keras' own: False allows models that hold Python lambdas, which run code when they are loaded.

    Raises:
        ModelError: there is no model, it is not whole, or Keras cannot load it.
    """
    model_dir = storage.absolute(model_dir)
    signature = Signature.read(model_dir)
    return LoadedModel(load_keras(model_dir, signature, safe_mode=safe_mode), signature)


def load_keras(model_dir: str, signature: Signature, *, safe_mode: bool = True) -> Any:
    """The bare Keras model of a model directory, compiled under the float it was trained with. Raises ModelError."""
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import keras

    path = storage.join(model_dir, MODEL_NAME)
    own_floatx = keras.config.floatx()
    keras.config.set_floatx(signature.floatx)
    try:
        if storage.is_local(path):
            return keras.saving.load_model(path, safe_mode=safe_mode)
        with tempfile.TemporaryDirectory(prefix="sparkdl-model-") as folder:
            local = os.path.join(folder, MODEL_NAME)
            with open(local, "wb") as file:
                file.write(storage.read_bytes(path))
            return keras.saving.load_model(local, safe_mode=safe_mode)
    except Exception as error:
        hint = "; it holds Python code: load it with safe_mode=False if you trust it" if "safe_mode" in str(error) else ""
        raise ModelError(f"Keras cannot load {path}: {error}{hint}") from error
    finally:
        keras.config.set_floatx(own_floatx)
