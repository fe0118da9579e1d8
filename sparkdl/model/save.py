"""Write a model directory: model.keras and, last, signature.json.

Runs in rank 0 after training, and wherever a Keras model is wrapped; needs Keras.
"""

from __future__ import annotations

import json
import os
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sparkdl.data.features import Encoder
from sparkdl.errors import ModelError
from sparkdl.model.number_outputs import check_numbers
from sparkdl.model.outputs import flat_outputs, outputs_of, own_output_names
from sparkdl.model.own_names import own_names
from sparkdl.model.said import Said
from sparkdl.model.signature import MODEL_NAME, SIGNATURE_NAME, Output, Signature, sha256
from sparkdl.storage import folders

__all__ = ["check_savable", "model_inputs", "one_line", "write_model"]


# Keras puts whole configurations into its messages: the cause is at the beginning or the end.
_HALF_MESSAGE = 250


def one_line(error: BaseException) -> str:
    """Return the text of an error of Keras for a message of sparkdl: one line, cut in the middle if it is long."""
    text = " ".join(str(error).split())
    return text if len(text) <= 2 * _HALF_MESSAGE else f"{text[:_HALF_MESSAGE]} … {text[-_HALF_MESSAGE:]}"


def model_inputs(encoders: Sequence[Encoder], values: Mapping[str, Any]) -> Any:
    """Return the values as the model takes them: bare for one input, a dict by name for several."""
    return values[encoders[0].name] if len(encoders) == 1 else {e.name: values[e.name] for e in encoders}


def write_model(
    model: Any,
    model_dir: str,
    *,
    encoders: Sequence[Encoder],
    label_encoders: Sequence[Encoder],
    raw_types: Mapping[str, str],
    target: str = "label",
    inexact: Sequence[str] = (),
    said: Said | None = None,
    trained_here: bool = True,
    outputs: Sequence[Output] | None = None,
) -> Signature:
    """Write a Keras model and its signature to `model_dir`, replacing a model there.

    Args:
        said, trained_here: as in `outputs_of`.
        outputs: the description of the outputs, in flat order, where it is known; None: `outputs_of` finds it.

    Raises:
        ModelError: Keras cannot save the model, or call it with the encoders' values, or `model_dir` cannot be written.
        ConfigError: the model's outputs are not as `said`.
    """
    import keras

    result = _result(model, encoders)
    if outputs is None:
        outputs = outputs_of(model, result, label_encoders, said, trained_here=trained_here)
    try:
        with folders.committed_folder(model_dir, last=SIGNATURE_NAME) as folder:
            file = os.path.join(folder, MODEL_NAME)
            custom_objects = _save_keras(model, file)
            with open(file, "rb") as handle:
                content_hash = sha256(handle)
            signature = Signature(
                inputs=tuple(encoders),
                raw_types=dict(raw_types),
                outputs=tuple(outputs),
                content_hash=content_hash,
                floatx=keras.config.floatx(),
                labels=tuple(label_encoders),
                target=target,
                custom_objects=custom_objects,
                inexact=tuple(inexact),
            )
            with open(os.path.join(folder, SIGNATURE_NAME), "w", encoding="utf-8") as text:
                json.dump(signature.to_json(), text, indent=1, ensure_ascii=False)
    except OSError as error:
        raise ModelError(f"the model cannot be written to {model_dir}: {error}") from error
    return signature


def _save_keras(model: Any, file: str) -> dict[str, str]:
    """Write `model.keras` without holding it in memory, as Keras does before it packs it; return its `own_names`."""
    import keras

    with tempfile.TemporaryDirectory(dir=os.path.dirname(file)) as folder:
        try:
            with own_names(model) as custom_objects:
                keras.saving.save_model(model, folder, zipped=False)
        except ModelError:
            raise
        except Exception as error:
            raise ModelError(f"Keras cannot save model {model.name!r}: {one_line(error)}") from error
        # Stored as it is: weights hardly shrink, and loading it unpacks them by copying.
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for below, _, names in os.walk(folder):
                for name in sorted(names):
                    path = os.path.join(below, name)
                    archive.write(path, os.path.relpath(path, folder))
                    os.remove(path)
    return custom_objects


def check_savable(model: Any) -> None:
    """Raise ModelError if the model could not be saved or used after training. Called before training."""
    struct = getattr(model, "_outputs_struct", None)
    if struct is not None:
        check_numbers(own_output_names(model, struct), flat_outputs(struct))
    try:
        with own_names(model):
            pass
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(f"Keras cannot save model {model.name!r}: {one_line(error)}") from error


def _result(model: Any, encoders: Sequence[Encoder]) -> Any:
    """Call the model on two rows of zeros."""
    zeros = {e.name: np.zeros((2, *e.shape), e.dtype) for e in encoders}
    try:
        return model(model_inputs(encoders, zeros), training=False)
    except Exception as error:
        given = ", ".join(f"{e.name} {e.dtype} {e.shape}" for e in encoders)
        raise ModelError(f"model {model.name!r} cannot be called with rows of {given}: {one_line(error)}") from error
