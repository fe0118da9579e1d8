"""Export a model directory as a TensorFlow SavedModel that takes raw values: `export_saved_model`.

Called on the driver, or wherever TensorFlow is. What it writes needs neither sparkdl nor Keras.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from sparkdl import storage
from sparkdl.errors import ConfigError, ModelError, near_miss, shown
from sparkdl.model.custom_objects import check_custom_objects
from sparkdl.model.load import float_of, load_keras
from sparkdl.model.outputs import flat_outputs
from sparkdl.model.save import model_inputs, one_line
from sparkdl.model.signature import Signature
from sparkdl.storage import folders

__all__ = ["export_saved_model"]

# The names in a signature that TensorFlow keeps unchanged; it changes other names silently, or fails.
_SAVED_MODEL_NAME = re.compile("[A-Za-z][A-Za-z0-9_]*", re.ASCII)


def export_saved_model(
    model_dir: str,
    out: str,
    *,
    names: Mapping[str, str] | None = None,
    custom_objects: Mapping[str, Any] | None = None,
    safe_mode: bool = True,
) -> None:
    """Write the model as a SavedModel whose `serving_default` takes raw values and gives what `predict` gives.

    `serving_default` takes a tensor for each column, by the column's name, with any number of rows: for a `Numeric`
    float64 (NaN is null; dates are days, timestamps seconds since 1970-01-01 UTC; several columns are one tensor of
    shape (rows, columns) by the input's name), for a `Categorical` string or int64
    (a boolean is 0 or 1), for a `Text` string in UTF-8 ("" is a value, not a null: the caller fills nulls of both with
    the fill), for a `Tensor` its dtype and the column's shape (the caller pads), for an `Image` its pixels, uint8 of
    shape (rows, height, width, channels), decoded and resized before. Values that scoring refuses (a null without a
    fill, an infinite value) fail in the SavedModel, too. So does text with characters that the encoder's form of
    Unicode joins, such as e and a combining accent: the caller normalizes it.

    Args:
        model_dir: as in `result.model_dir`.
        out: a new or empty folder, or a URL.
        names: other names of columns and outputs, for those that a SavedModel cannot have.
        custom_objects, safe_mode: as in `load_model`.

    Raises:
        ModelError: no model there; `out` holds something; something in it cannot be exported, named with its column.
        ConfigError: an argument is wrong.
    """
    check_custom_objects(custom_objects)
    model_dir, out = storage.absolute(model_dir), storage.absolute(out)
    signature = Signature.read(model_dir)
    found = storage.listing(out)
    if found:
        raise ModelError(f"{out} is not empty: it holds {shown(found[0])}; delete it or choose another folder")
    outputs = [output.name for output in signature.outputs]
    inputs = [encoder.name for encoder in signature.inputs]
    input_names = _saved_names(inputs, names)
    output_names = _saved_names(outputs, names)
    known = (*inputs, *outputs)
    unknown = next((name for name in names or {} if name not in known), None)
    if unknown is not None:
        raise ConfigError(f"names: {unknown!r} is not a column or output of the model{near_miss(unknown, known)}")
    keras_model = load_keras(model_dir, signature, custom_objects=custom_objects, safe_mode=safe_mode, compiled=False)
    _write(keras_model, signature, out, input_names, output_names)


def _saved_names(own: Any, names: Mapping[str, str] | None) -> dict[str, str]:
    """Return the SavedModel's name of each column or output. Raises ModelError for a name that it cannot have."""
    saved = {name: (names or {}).get(name, name) for name in own}
    for name, other in saved.items():
        if not _SAVED_MODEL_NAME.fullmatch(other) or other == "self":
            raise ModelError(
                f"{other!r} cannot be a name in a SavedModel (ASCII letters, digits and underscores, a letter first); "
                f"give another by names={{{name!r}: …}}"
            )
    for name, other in saved.items():
        if list(saved.values()).count(other) > 1:
            raise ModelError(f"two columns or outputs would be named {other!r}; give names={{{name!r}: …}}")
    return saved


def _write(
    keras_model: Any, signature: Signature, out: str, input_names: Mapping[str, str], output_names: Mapping[str, str]
) -> None:
    import tensorflow as tf

    from sparkdl.model.graph_encoders import GraphEncoders, raw_spec

    exported = tf.Module()
    exported.encoders = GraphEncoders(signature.inputs)
    # Layers hold tables; TensorFlow does not find the states of their random numbers by itself.
    exported.model = keras_model
    exported.states = [variable.value for variable in keras_model.variables]

    def serve(raw: dict[str, Any]) -> dict[str, Any]:
        encoded = exported.encoders.encode({name: raw[saved] for name, saved in input_names.items()})
        result = flat_outputs(keras_model(model_inputs(signature.inputs, encoded), training=False))
        return {
            output_names[output.name]: tf.cast(value, tf.as_dtype(output.numpy_dtype))
            for output, value in zip(signature.outputs, result, strict=True)
        }

    specs = {input_names[e.name]: raw_spec(e, name=input_names[e.name]) for e in signature.inputs}
    try:
        with float_of(signature):
            function = tf.function(serve, autograph=False).get_concrete_function(specs)
        with folders.committed_folder(out, last="saved_model.pb") as folder:
            tf.saved_model.save(exported, folder, signatures={"serving_default": function})
    except OSError as error:
        raise ModelError(f"the SavedModel cannot be written to {out}: {error}") from error
    except Exception as error:
        raise ModelError(f"the model cannot be exported as a SavedModel: {one_line(error)}") from error
