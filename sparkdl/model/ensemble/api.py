"""Make one model directory of several trained models that vote: `ensemble`.

Called on the driver, or wherever Keras is. The new model is a functional Keras model with the members within it, and
Keras' own operations alone beside them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sparkdl import storage
from sparkdl.checks import require
from sparkdl.errors import ConfigError, ModelError, shown
from sparkdl.model.custom_objects import check_custom_objects, found_objects, registered
from sparkdl.model.ensemble.members import check_alike
from sparkdl.model.ensemble.votes import combined, combined_output
from sparkdl.model.load import compilation_of, float_of, load_keras
from sparkdl.model.outputs import flat_outputs
from sparkdl.model.save import model_inputs, write_model
from sparkdl.model.signature import Output, Signature

__all__ = ["ensemble"]

log = logging.getLogger(__name__)

VOTES = ("mean", "majority")
_MEASURED_BY = ("loss", "loss_weights", "metrics", "weighted_metrics")


def ensemble(
    model_dirs: Sequence[str],
    model_dir: str,
    *,
    vote: str = "mean",
    custom_objects: Mapping[str, Any] | None = None,
    safe_mode: bool = True,
) -> Signature:
    """Make a model directory of several: its predictions are those that the members vote for.

    The directory is like any other, for scoring, `load_model`, `evaluate` and export, and holds copies of the members.
    If all members were compiled with the same loss and metrics, so is the ensemble.

    Args:
        model_dirs: at least two model directories with the same inputs (encoders with what was fitted), labels and
            outputs. Their layers may be any, of any names.
        model_dir: a new or empty folder, or a URL.
        vote: "mean": the mean of the members' values; of classes, the mean of probabilities, which logits become
            first: the ensemble gives the logits of that mean. "majority": the class that most members choose, for
            outputs with classes alone; the values are the shares of votes, as probabilities, or as their logits where
            the members give logits. Of classes with equally many votes the first one in `classes` is chosen.
        custom_objects, safe_mode: as in `load_model`, for all members.

    Returns:
        The description of the new model's inputs and outputs.

    Raises:
        ConfigError: an argument is wrong; an output cannot be combined in this way.
        ModelError: the members do not go together, the message names the difference; the folder holds something; a
            member cannot be loaded.
    """
    listed = isinstance(model_dirs, Sequence) and not isinstance(model_dirs, str) and len(model_dirs) > 1
    require(listed, f"model_dirs={shown(model_dirs)} must be a list of at least two model directories")
    require(vote in VOTES, f"vote={shown(vote)} must be one of {', '.join(VOTES)}")
    check_custom_objects(custom_objects)
    model_dir, model_dirs = storage.absolute(model_dir), [storage.absolute(path) for path in model_dirs]
    if found := storage.listing(model_dir):
        raise ModelError(f"{model_dir} is not empty: it holds {shown(found[0])}; delete it or choose another folder")
    signatures = [Signature.read(path) for path in model_dirs]
    check_alike(list(zip(model_dirs, signatures, strict=True)))
    first = signatures[0]
    of_members = list(zip(*(signature.outputs for signature in signatures), strict=True))
    outputs = [combined_output(same, vote) for same in of_members]
    with float_of(first):
        members = [
            load_keras(path, signature, custom_objects=custom_objects, safe_mode=safe_mode, compiled=False)
            for path, signature in zip(model_dirs, signatures, strict=True)
        ]
        model = _voting(members, first, of_members, outputs, vote)
        _compile(model, model_dirs, signatures, of_members, custom_objects, safe_mode=safe_mode)
        if model.compiled:
            model.optimizer.build(model.trainable_variables)
        inexact = tuple(dict.fromkeys(one for signature in signatures for one in signature.inexact))
        return write_model(
            model,
            model_dir,
            encoders=first.inputs,
            label_encoders=first.labels,
            raw_types=first.raw_types,
            target=first.target,
            inexact=inexact,
            outputs=outputs,
        )


def _voting(
    members: Sequence[Any],
    signature: Signature,
    of_members: Sequence[tuple[Output, ...]],
    outputs: Sequence[Output],
    vote: str,
) -> Any:
    """Build the functional model: the members on the same inputs, and their votes in the members' structure."""
    import keras

    taken = {encoder.name for encoder in signature.inputs} | {output.name for output in outputs}
    for index, member in enumerate(members):
        member.name = _free(f"member_{index}", taken)
    given = {e.name: keras.Input(e.shape, name=e.name, dtype=e.dtype.name) for e in signature.inputs}
    if len(given) == 1 and signature.inputs[0].name in {output.name for output in outputs}:
        (encoder,) = signature.inputs  # the name of a single input does not matter
        given = {encoder.name: keras.Input(encoder.shape, name=_free("inputs", taken), dtype=encoder.dtype.name)}
    results = [member(model_inputs(signature.inputs, given)) for member in members]
    flat = [flat_outputs(result) for result in results]
    by_key = isinstance(results[0], Mapping)
    votes = []
    for index, (same, made) in enumerate(zip(of_members, outputs, strict=True)):
        value = combined([values[index] for values in flat], same, made, vote)
        # The layer bears the output's name, by which losses and metrics find the output.
        name = _free(f"vote_{index}", taken) if by_key else made.name
        votes.append(keras.layers.Identity(name=name, dtype=made.dtype)(value))
    return keras.Model(model_inputs(signature.inputs, given), _packed(results[0], iter(votes)), name="ensemble")


def _packed(struct: Any, values: Iterator[Any]) -> Any:
    """Put values, in the order of `flat_outputs`, into a structure."""
    if isinstance(struct, Mapping):
        return {key: _packed(struct[key], values) for key in sorted(struct, key=str)}
    if isinstance(struct, (list, tuple)):
        return [_packed(part, values) for part in struct]
    return next(values)


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name = f"{name}_"
    taken.add(name)
    return name


def _compile(
    model: Any,
    model_dirs: Sequence[str],
    signatures: Sequence[Signature],
    of_members: Sequence[tuple[Output, ...]],
    custom_objects: Mapping[str, Any] | None,
    *,
    safe_mode: bool,
) -> None:
    """Compile the model with the loss and metrics of its members; warn where these are not the same for all."""
    import keras

    compiled = [compilation_of(path, signature) for path, signature in zip(model_dirs, signatures, strict=True)]
    measured = [{name: one.get(name) for name in _MEASURED_BY} for one in compiled]
    reason = ""
    if not all(one["loss"] for one in measured):
        reason = "a member is not compiled with a loss"
    elif any(one != measured[0] for one in measured[1:]):
        reason = "the members' losses or metrics differ"
    elif any(len({output.values for output in same}) > 1 for same in of_members):
        reason = "some members give probabilities and some logits"
    if not reason:
        objects = found_objects(signatures[0].custom_objects, custom_objects, import_modules=not safe_mode)
        try:
            with registered(objects):
                found = keras.saving.deserialize_keras_object(measured[0], safe_mode=safe_mode)
            # No step is taken with the optimizer, which holds next to nothing.
            model.compile(keras.optimizers.SGD(), **found)
        except (ConfigError, ModelError):
            raise
        except Exception as error:
            reason = f"its loss or metrics cannot be loaded here: {' '.join(str(error).split())[:200]}"
    if reason:
        log.warning("the ensemble of %s is not compiled, and cannot be evaluated: %s", shown(list(model_dirs)), reason)
