"""Write a model directory: model.keras and, last, signature.json.

Runs in rank 0 after training, and wherever a Keras model is wrapped; needs Keras.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sparkdl import storage
from sparkdl.data.features import Encoder
from sparkdl.errors import ModelError
from sparkdl.model.signature import MODEL_NAME, SIGNATURE_NAME, Output, Signature, output_classes

__all__ = ["check_savable", "model_inputs", "write_model"]


def model_inputs(encoders: Sequence[Encoder], values: Mapping[str, Any]) -> Any:
    """The bare value of a model with one input, a dict by name for any other."""
    return values[encoders[0].name] if len(encoders) == 1 else {e.name: values[e.name] for e in encoders}


def write_model(
    model: Any,
    model_dir: str,
    *,
    encoders: Sequence[Encoder],
    label_encoders: Sequence[Encoder],
    raw_types: Mapping[str, str],
) -> Signature:
    """Save a Keras model with its signature. Raises ModelError where Keras cannot save it."""
    import keras

    outputs = _outputs(model, encoders, label_encoders)
    with tempfile.TemporaryDirectory(prefix="sparkdl-model-") as folder:
        file = os.path.join(folder, MODEL_NAME)
        try:
            model.save(file)
        except Exception as error:
            raise ModelError(f"Keras cannot save model {model.name!r}: {' '.join(str(error).split())}") from error
        signature = Signature(
            tuple(encoders),
            dict(raw_types),
            tuple(outputs),
            _sha256(file),
            keras.config.floatx(),
            tuple(label_encoders),
        )
        storage.upload_folder(folder, model_dir)
    text = json.dumps(signature.to_json(), indent=1, ensure_ascii=False)
    storage.write_atomic(storage.join(model_dir, SIGNATURE_NAME), text.encode())
    return signature


def _sha256(file: str) -> str:
    digest = hashlib.sha256()
    with open(file, "rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def check_savable(model: Any) -> None:
    """Raise ModelError where Keras cannot serialize the model: before training, not after it."""
    import keras

    try:
        keras.saving.serialize_keras_object(model)
    except Exception as error:
        raise ModelError(f"Keras cannot save model {model.name!r}: {' '.join(str(error).split())}") from error


def _outputs(model: Any, encoders: Sequence[Encoder], label_encoders: Sequence[Encoder]) -> list[Output]:
    """What the model gives, found by calling it on two rows of zeros."""
    import keras

    zeros = {e.name: np.zeros((2, *e.shape), e.dtype) for e in encoders}
    result = model(model_inputs(encoders, zeros), training=False)
    names = output_names(model, result)
    labels = {e.name: e for e in label_encoders}
    only_label = label_encoders[0] if len(label_encoders) == 1 else None
    logits = _logit_outputs(model)
    outputs = []
    for name, value in zip(names, keras.tree.flatten(result), strict=True):
        shape = tuple(int(length) for length in value.shape[1:])
        label = labels.get(name, only_label)
        dtype = keras.backend.standardize_dtype(value.dtype)
        threshold = 0.0 if name in logits or (len(names) == 1 and logits) else 0.5
        outputs.append(Output(name, dtype, shape, output_classes(shape, label), threshold))
    return outputs


def _logit_outputs(model: Any) -> set[str]:
    """The names of the losses that were compiled with from_logits=True; they are named after their outputs."""
    compiled = getattr(model, "_compile_loss", None)
    losses = (compiled._flat_losses or ()) if compiled is not None else ()
    return {loss.name for loss in losses if getattr(loss.loss, "from_logits", False)}


def output_names(model: Any, result: Any) -> list[str]:
    """A name for each output, in the flat order of `result`: its dict key, its layer's name, or output_0, …"""
    import keras

    if isinstance(result, Mapping):
        return sorted(result)  # keras.tree flattens dicts in the order of their sorted keys
    flat = keras.tree.flatten(result)
    names = list(getattr(model, "output_names", None) or [])
    return names if len(names) == len(flat) else [f"output_{place}" for place in range(len(flat))]
