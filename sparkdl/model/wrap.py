"""Make a model directory of any Keras model: `save_model`.

Called on the driver, or wherever Keras is; checks the features against the model's inputs before anything is written.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sparkdl import storage
from sparkdl.checks import require_target
from sparkdl.data.dataset import Dataset
from sparkdl.data.features import Encoder, Feature, Image, Numeric, Tensor, as_feature
from sparkdl.data.features.categorical import CategoricalEncoder
from sparkdl.data.features.categories import CategoriesEncoder
from sparkdl.data.features.feature import check_several
from sparkdl.data.features.image import ImageEncoder
from sparkdl.data.features.numeric import NumericEncoder
from sparkdl.data.features.tensor import DTYPES, TensorEncoder
from sparkdl.data.features.text import TextEncoder
from sparkdl.errors import ConfigError, ModelError, near_miss, shown
from sparkdl.model.outputs import unknown_classes, unknown_values
from sparkdl.model.said import Said
from sparkdl.model.save import write_model
from sparkdl.model.signature import Signature

if TYPE_CHECKING:
    from keras import Model

__all__ = ["save_model"]

log = logging.getLogger(__name__)

_ENCODERS = (CategoricalEncoder, CategoriesEncoder, ImageEncoder, NumericEncoder, TensorEncoder, TextEncoder)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInput:
    """Describe an input that the model itself declares; an axis of any length is None."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]


def save_model(
    keras_model: Model,
    model_dir: str,
    *,
    inputs: Dataset | Sequence[str | Mapping[str, Any] | Feature | Encoder],
    label: Encoder | Sequence[Encoder | str | int] | Mapping[str, Encoder | Sequence[str | int]] | None = None,
    target: str = "label",
    logits: bool | Mapping[str, bool] | None = None,
    threshold: float | Mapping[str, float] | None = None,
) -> Signature:
    """Make a model directory of any Keras model: predict_udf, transform and load_model then take raw rows for it.

    Args:
        keras_model: a model with weights: functional, Sequential, or subclassed and called once.
        model_dir: a new or empty folder, or a URL.
        inputs: the features that encode raw columns, one for each input of the model and named after it (the name does
            not matter for a model with one input). A prepared dataset gives its features, its labels and its columns'
            types. Else a list of features that need no statistics (column names, `Tensor`, `Image`,
            `Numeric(scale="none")`) and of fitted features, such as `ds.features["age"]`. Shape and dtype that a
            feature leaves open are the model's; an input of shape (1,) takes scalars.
        label: the classes: fitted labels, such as `ds.labels["income"]`, or the classes in the order of the output's
            values. Of several outputs the classes go to the output with the label's name, or with a loss for classes;
            else give a dict by output: ``{"pet": ["cat", "dog"]}``.
        logits: whether outputs with classes give logits (True) or probabilities (False); a dict by output for several.
            None: concluded from the compiled loss, if it is Keras' or has `sparkdl_logits`, and from a last sigmoid or
            softmax. If neither decides, scoring refuses the classes of one unit and all probabilities.
        threshold: the value of an output of one unit above which it means the second class; a dict by output for
            several. None: 0.5 for probabilities and regressions on 0 and 1, 0 for logits and margins. For a last tanh
            that learned by regression it must be given: 0.0 if the classes were -1 and 1, 0.5 if they were 0 and 1.
            `returns="top_k"` does not use the threshold.
        target: the values that `evaluate` compares predictions with: "label", or "inputs" for an autoencoder, which has
            no label.

    Returns:
        The description of the model's inputs and outputs.

    Raises:
        ConfigError: an argument is wrong; a feature needs statistics and is not fitted.
        ModelError: the folder holds something; the features are not the model's inputs; Keras cannot save the model.
    """
    import keras

    if not isinstance(keras_model, keras.Model):
        raise ConfigError(f"keras_model={shown(keras_model)} must be a Keras model")
    require_target(target)
    if target == "inputs" and label is not None:
        raise ConfigError("target='inputs' is for models without a label; leave one of the two out")
    model_dir = storage.absolute(model_dir)
    found = storage.listing(model_dir)
    if found:
        raise ModelError(f"{model_dir} is not empty: it holds {shown(found[0])}; delete it or choose another folder")
    if not keras_model.built:
        raise ModelError(f"model {keras_model.name!r} has no weights yet; train it, load it or call it on data before")
    declared = _declared_inputs(keras_model)
    raw_types: Mapping[str, str] = {}
    if isinstance(inputs, Dataset):
        raw_types = inputs.raw_types_of_features
        label = inputs.label_encoders if label is None and target == "label" else label
        inputs = inputs.encoders
    given = _features(inputs)
    _check_names([feature.name for feature in given], declared)
    encoders = [_encoder(feature, _input_of(feature.name, declared)) for feature in given]
    optimizer = getattr(keras_model, "optimizer", None)
    if optimizer is not None and not optimizer.built:
        # Keras builds the optimizer when it loads the model, and then expects all of its variables in the file.
        optimizer.build(keras_model.trainable_variables)
    by_output = _labels_by_output(label) if isinstance(label, Mapping) else {}
    labels = tuple(dict.fromkeys(by_output.values())) if by_output else _label_encoders(label)
    signature = write_model(
        keras_model,
        model_dir,
        encoders=encoders,
        label_encoders=labels,
        raw_types=raw_types,
        target=target,
        said=Said(logits=logits, threshold=threshold, labels=by_output),
        trained_here=False,
    )
    for unknown in (unknown_values(signature.outputs), unknown_classes(signature.outputs, labels)):
        if unknown:
            log.warning("model %r: %s", keras_model.name, unknown)
    return signature


def _features(inputs: object) -> list[Feature | Encoder]:
    """Convert `inputs` to features and encoders. Raises ConfigError if two have the same name."""
    if isinstance(inputs, str) or not isinstance(inputs, Sequence) or not inputs:
        raise ConfigError(f"inputs={shown(inputs)} must be a list of features, or a prepared dataset")
    given: list[Feature | Encoder] = [f if isinstance(f, _ENCODERS) else as_feature(f) for f in inputs]
    names = [feature.name for feature in given]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"inputs name the column {twice!r} twice")
    check_several(given)
    return given


def _declared_inputs(model: Any) -> list[ModelInput]:
    """Return the inputs that a functional or Sequential model declares; [] for a subclassed model."""
    tensors = getattr(model, "inputs", None) or []
    names = [tensor.name for tensor in tensors]
    if len(tensors) > 1 and isinstance(model.input, Mapping):
        names, tensors = list(model.input), list(model.input.values())
    return [
        ModelInput(name=name, dtype=tensor.dtype, shape=tuple(tensor.shape[1:]))
        for name, tensor in zip(names, tensors, strict=True)
    ]


def _check_names(names: Sequence[str], declared: Sequence[ModelInput]) -> None:
    """Raise ModelError unless each input that the model declares has a feature, and each feature has an input."""
    known = [declared_input.name for declared_input in declared]
    if len(known) == len(names) == 1 or not known:
        return
    for name in names:
        if name not in known:
            raise ModelError(f"feature {name!r} is not an input of the model{near_miss(name, known)}")
    for name in known:
        if name not in names:
            raise ModelError(f"the model's input {name!r} has no feature; inputs name {', '.join(names)}")


def _input_of(name: str, declared: Sequence[ModelInput]) -> ModelInput | None:
    return declared[0] if len(declared) == 1 else next((d for d in declared if d.name == name), None)


def _encoder(feature: Any, declared: ModelInput | None) -> Encoder:
    """Make the encoder of a feature that needs no statistics; return fitted ones. Raises ConfigError, ModelError."""
    encoder: Encoder
    if isinstance(feature, _ENCODERS):
        encoder = feature
    elif isinstance(feature, Image):
        pixels = (feature.height, feature.width, feature.channels)
        encoder = ImageEncoder(feature.name, pixels, feature.store, feature.fill)
    elif isinstance(feature, Tensor):
        shape = _row_shape(feature.name, declared) if feature.shape is None else feature.shape
        natural = declared.dtype if declared is not None and declared.dtype in DTYPES else "float32"
        encoder = TensorEncoder(feature.name, shape, shape, np.dtype(feature.dtype or natural))
    elif isinstance(feature, Numeric) and feature.scale == "none" and not isinstance(feature.fill, str):
        # The statistics are not known, and scale="none" does not use them.
        unknown: dict[str, Any] = {"mean": 0.0, "std": 1.0, "low": 0.0, "high": 1.0}
        fill = None if feature.fill is None else float(feature.fill)
        shape = () if declared is None else _row_shape(feature.name, declared)
        columns = tuple(feature.columns)
        if columns:
            shape = (len(columns),)
        encoder = NumericEncoder(feature.name, shape, "none", **unknown, fill=fill, columns=columns)
    else:
        raise ConfigError(
            f"{type(feature).__name__}({feature.name!r}) needs statistics of the rows that the model was trained on; "
            f"give it fitted, as ds.features[{feature.name!r}]"
        )
    if declared is not None:
        _check_fits(encoder, declared)
    return encoder


def _row_shape(name: str, declared: ModelInput | None) -> tuple[int, ...]:
    """Return the shape of a row as the model declares it, for a feature that leaves the shape open."""
    if declared is None:
        raise ModelError(f"feature {name!r}: the model declares no inputs; give Tensor({name!r}, shape=…, dtype=…)")
    if None in declared.shape:
        raise ModelError(
            f"feature {name!r}: the model's input has the open shape {declared.shape}; give Tensor(shape=…)"
        )
    shape = tuple(length for length in declared.shape if length is not None)
    # Keras expands scalars to (rows, 1), and a raw row is seldom a list of one number.
    return () if shape == (1,) else shape


def _check_fits(encoder: Encoder, declared: ModelInput) -> None:
    """Raise ModelError if the model's input does not take the shape and dtype of the encoder."""
    shapes = {encoder.shape, (*encoder.shape, 1)} | ({encoder.shape[:-1]} if encoder.shape[-1:] == (1,) else set())
    if not any(_matches(shape, declared.shape) for shape in shapes):
        raise ModelError(
            f"feature {encoder.name!r} has rows of shape {encoder.shape}, the model's input {declared.name!r} is "
            f"{declared.shape}"
        )
    taken = np.dtype("float32" if declared.dtype == "bfloat16" else declared.dtype)
    # Integers may become floats, as in Keras; the other way the fractions would be lost.
    if not np.can_cast(encoder.dtype, taken, "same_kind"):
        raise ModelError(
            f"feature {encoder.name!r} is {encoder.dtype}, the model's input {declared.name!r} is {declared.dtype}"
        )


def _matches(shape: tuple[int, ...], declared: tuple[int | None, ...]) -> bool:
    same = (length in (None, given) for given, length in zip(shape, declared, strict=False))
    return len(shape) == len(declared) and all(same)


def _labels_by_output(label: Mapping[str, object]) -> dict[str, Encoder]:
    """Return the label encoder of each output in the caller's dict. Raises ConfigError."""
    found: dict[str, Encoder] = {}
    for name, given in label.items():
        encoders = _label_encoders(given, name=name)
        if len(encoders) != 1:
            raise ConfigError(f"label={{{name!r}: {shown(given)}}} must be one fitted label or at least two classes")
        found[name] = encoders[0]
    if not found:
        raise ConfigError("label={} names no output; leave it out, or give label={'pet': ['cat', 'dog']}")
    return found


def _label_encoders(label: object, *, name: str = "label") -> tuple[Encoder, ...]:
    """Return the encoders of the labels: the given fitted encoders, or a new one of the given classes."""
    if label is None:
        return ()
    labels = (label,) if isinstance(label, _ENCODERS) else label
    if isinstance(labels, Sequence) and not isinstance(labels, str):
        if all(isinstance(encoder, _ENCODERS) for encoder in labels):
            return tuple(labels)
        types = {type(given) for given in labels}
        if types in ({str}, {int}) and 1 < len(labels) == len(set(labels)):
            return (CategoricalEncoder(name, tuple(labels), True),)
    raise ConfigError(f"label={shown(label)} must be fitted labels (ds.labels[…]) or at least two classes, each once")
