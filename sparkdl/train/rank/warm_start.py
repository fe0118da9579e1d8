"""Give a new model the weights of a trained one: all of them, or those of matching layers.

Runs in rank processes: in rank 0, and in each one for a model whose layers hold more than variables. Whether features
and classes mean the same is checked on the driver (`checks.initial_model`), or here for each layer (`checks.matching`).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import tempfile
from collections.abc import Sequence
from typing import Any

import keras

from sparkdl import storage
from sparkdl.data.dataset import Dataset
from sparkdl.data.features import Encoder, encoder_from_json
from sparkdl.data.features.categorical import CategoricalEncoder
from sparkdl.data.features.difference import encoder_difference
from sparkdl.errors import ModelError, shown
from sparkdl.model.load import load_keras
from sparkdl.model.outputs import own_output_names
from sparkdl.model.own_names import own_objects
from sparkdl.model.signature import Signature
from sparkdl.train.checks.matching import Matched, match_layers
from sparkdl.train.rank.layer_entries import entries_of, is_state, layer_name, own_weights
from sparkdl.train.spec import TrainSpec

__all__ = ["finish_states", "layer_name", "match_start", "take_initial_weights", "variables_difference", "warm_start"]

log = logging.getLogger(__name__)


def variables_difference(old: Sequence[Sequence[Any]], new: Sequence[Sequence[Any]]) -> str | None:
    """Describe the first difference of two lists of variables, each a (name, shape, dtype); None if all values fit.

    Floats may differ in precision; Keras casts them.
    """
    for index, ((name, shape, dtype), (own_name, own_shape, own_dtype)) in enumerate(zip(old, new, strict=False)):
        if name != own_name:
            return f"variable {index} is {name!r} there and {own_name!r} here"
        if tuple(shape) != tuple(own_shape):
            return f"variable {name!r} has shape {tuple(shape)} there and {tuple(own_shape)} here"
        if dtype != own_dtype and not ("float" in dtype and "float" in own_dtype):
            return f"variable {name!r} is {dtype} there and {own_dtype} here"
    return None if len(old) == len(new) else f"there are {len(old)} variables there and {len(new)} here"


def take_initial_weights(task: TrainSpec, model: Any, *, rank: int, goes_on: bool) -> None:
    """Give the model the weights of `initial_model`: on rank 0, which gives the others its variables.

    What layers hold beside variables (vocabularies) each rank takes itself, also where a run goes on: no checkpoint
    has it.
    """
    config = task.config
    if config.initial_model is None or not (_has_states(model) or (rank == 0 and not goes_on)):
        return
    if config.initial_weights == "all":
        warm_start(model, config.initial_model)
        return
    matched = match_start(model, config.initial_model, task.dataset, config.target)
    if rank > 0 or goes_on:
        return
    storage.write_atomic(task.run.initial, json.dumps(matched.to_json(), indent=1, ensure_ascii=False).encode())
    log.info("%d layers start from %s: %s", len(matched.loaded), config.initial_model, ", ".join(matched.loaded))
    reasons = "; ".join(f"{path}: {reason}" for path, reason in matched.not_loaded.items())
    log.warning("layers that do not start from %s: %s", config.initial_model, reasons or "none")


def warm_start(model: Any, model_dir: str) -> None:
    """Give the model the weights of a trained one, which may hold the same layers and functions of the user's.

    Raises ModelError if the trained model cannot be loaded, or if names, order, shapes or types of variables differ.
    """
    trained = _trained(model_dir, model)
    difference = variables_difference(_variables(trained), _variables(model))
    if difference is not None:
        raise ModelError(
            f"initial_model={model_dir} has other weights than build_model's model: {difference}; give its layers the "
            "same names in the same order, or leave initial_model out and set the weights in build_model"
        )
    model.set_weights(trained.get_weights())
    old, new = ([layer for layer in one._flatten_layers() if is_state(layer)] for one in (trained, model))
    if [type(layer) for layer in old] != [type(layer) for layer in new]:
        raise ModelError(
            f"initial_model={model_dir} has other preprocessing layers than build_model's model: it has "
            f"{shown([layer.name for layer in old])}, build_model {shown([layer.name for layer in new])}"
        )
    for one, other in zip(old, new, strict=True):
        _copy_state(one, other)


def match_start(model: Any, model_dir: str, dataset: Dataset, target: str) -> Matched:
    """Give the model the weights of the matching layers of a trained one, and return which they are.

    Raises ModelError if no layer matches, if the trained model cannot be loaded, or if features or labels differ and
    a model's graph is not known, so that nothing tells which layers depend on them.
    """
    signature, trained = Signature.read(model_dir), _trained(model_dir, model)
    names, features = _features(signature.inputs, dataset.encoders)
    labels = dataset.label_encoders if target == "label" else ()
    learned = (
        _learned(trained, signature.labels, signature.inputs, signature.target),
        _learned(model, labels, dataset.encoders, target),
    )
    old, old_layers = entries_of(trained, names)
    new, new_layers = entries_of(model, [encoder.name for encoder in dataset.encoders])
    differs = bool(features) or sorted(learned[0].values()) != sorted(learned[1].values())
    if differs and any(entry.sources is None for entry in (*old, *new)):
        raise ModelError(
            f"initial_model={model_dir} was trained with other features or labels, and a model with its own call "
            "does not tell which layers depend on them; give it and build_model's model the functional form, or leave "
            "initial_model out and set the weights in build_model"
        )
    matched = match_layers(old, new, features=features, learned=learned)
    if not matched.pairs:
        reasons = "; ".join(f"{path}: {reason}" for path, reason in matched.not_loaded.items())
        raise ModelError(
            f"initial_model={model_dir} has no layer that matches one of build_model's model: {reasons[:400]}; "
            "give its layers the same names"
        )
    for key, other in matched.pairs.items():
        for weight, value in zip(own_weights(new_layers[key]), own_weights(old_layers[other]), strict=True):
            weight.assign(value)
        if is_state(new_layers[key]):
            _copy_state(old_layers[other], new_layers[key])
    return matched


def _has_states(model: Any) -> bool:
    """Tell whether layers hold more than variables, which ranks cannot give each other."""
    return any(is_state(layer) for layer in model._flatten_layers())


def finish_states(model: Any) -> None:
    """Let layers that compute with copies of their variables take them over."""
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()


def _copy_state(old: Any, new: Any) -> None:
    """Give a preprocessing layer what another of its class has learned. Raises ModelError where it cannot hold it."""
    if hasattr(old, "bin_boundaries"):
        new.bin_boundaries, new.summary = old.bin_boundaries, old.summary
    if hasattr(old, "save_assets"):
        with tempfile.TemporaryDirectory(prefix="sparkdl-state-") as folder:
            given = [getattr(getattr(one, "_lookup_layer", one), "input_vocabulary", None) for one in (old, new)]
            if given[0] is None and given[1] is None:
                store: dict[str, Any] = {}
                old.save_own_variables(store)
                old.save_assets(folder)
                new.load_own_variables(store)
                new.load_assets(folder)
        if old.get_vocabulary() != new.get_vocabulary():
            raise ModelError(
                f"layer {new.name!r} has another vocabulary in initial_model, and build_model gives it one: "
                f"{shown(old.get_vocabulary())} there, {shown(new.get_vocabulary())} here; let it adapt, or give it "
                "the same one"
            )
    if isinstance(new, keras.layers.Normalization):
        new.finalize_state()


def _features(old: Sequence[Encoder], new: Sequence[Encoder]) -> tuple[list[str], dict[str, str]]:
    """Return the trained model's features by their names in the dataset, and what differs in each; by name.

    The name of a single feature does not count, as for a model with one input.
    """
    if len(old) == len(new) == 1:
        mine = encoder_from_json({**old[0].to_json(), "name": new[0].name})
        difference = encoder_difference(mine, new[0])
        return [new[0].name], {new[0].name: difference} if difference else {}
    there, here = ({encoder.name: encoder for encoder in encoders} for encoders in (old, new))
    found = {name: "it is not there" for name in here if name not in there}
    found |= {name: "it is not here" for name in there if name not in here}
    for name in there.keys() & here.keys():
        if difference := encoder_difference(there[name], here[name]):
            found[name] = difference
    return list(there), found


def _learned(model: Any, labels: Sequence[Encoder], inputs: Sequence[Encoder], target: str) -> dict[str, str]:
    """Say for each output of a model what it learns, in words that are equal only for the same."""
    struct = getattr(model, "_outputs_struct", None)
    if struct is None:
        struct = getattr(getattr(model, "_functional", None), "_outputs_struct", None)
    names = own_output_names(model, struct) if struct is not None else []
    if target == "inputs":
        return {name: f"the inputs ({_said([encoder.to_json() for encoder in inputs])})" for name in names}
    by_name = {encoder.name: encoder for encoder in labels}
    if len(labels) == len(names) == 1:
        by_name = {names[0]: labels[0]}
    found = {name: by_name.get(name) for name in names}
    return {name: "what no label names" if one is None else _label(one) for name, one in found.items()}


def _label(encoder: Encoder) -> str:
    classes = encoder.vocabulary if isinstance(encoder, CategoricalEncoder) else None
    said = _said(encoder.to_json()) if classes is None else f"classes {_said(list(classes))}"
    return f"label {encoder.name!r} ({said})"


def _said(value: Any) -> str:
    """Return a JSON value as text, a long one by its beginning and a digest."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:60]}… {hashlib.sha256(text.encode()).hexdigest()[:12]}"


def _trained(model_dir: str, model: Any) -> Any:
    """Load the trained Keras model; its custom objects are those of the same names in the new model."""
    known: dict[str, Any] = {}
    with contextlib.suppress(Exception):  # a model that Keras cannot serialize; it may hold nothing of the trained one
        known = own_objects(model)
    signature = Signature.read(model_dir)
    objects = {name: known[name] for name in signature.custom_objects if name in known}
    try:
        return load_keras(model_dir, signature, custom_objects=objects, compiled=False)
    except ModelError as error:
        raise ModelError(
            f"initial_model={model_dir} cannot be loaded with what build_model's model holds: {error}; or leave "
            "initial_model out and set the weights in build_model: model.set_weights(sparkdl.load_model(…)"
            ".keras_model.get_weights())"
        ) from error


def _variables(model: Any) -> list[tuple[str, tuple[int, ...], str]]:
    """Return name, shape and dtype of each weight of a model, the name with its layer's: `dense/kernel`.

    Keras' `path` is not used: the names of enclosing models are in it or not, depending on when they were built. The
    numbers that Keras adds to default layer names are left out: they count all layers that the process has made.
    """
    owners = {
        id(weight): layer_name(layer.name, type(layer).__name__)
        for layer in model._flatten_layers()
        for weight in (*layer._trainable_variables, *layer._non_trainable_variables)
    }
    dtype_of = keras.backend.standardize_dtype
    return [(f"{owners.get(id(w), '')}/{w.name}", tuple(w.shape), dtype_of(w.dtype)) for w in model.weights]
