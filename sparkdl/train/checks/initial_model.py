"""Check that a trained model's inputs and classes are encoded as those of the dataset that a new run trains on.

Runs on the driver, before any rank starts. With other encoders the model's weights would mean something else.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from sparkdl.data.dataset import Dataset
from sparkdl.data.features import Encoder
from sparkdl.errors import ModelError, shown
from sparkdl.model.signature import Signature
from sparkdl.train.run.differences import first_difference

__all__ = ["check_initial_model", "encoder_difference"]

log = logging.getLogger(__name__)

_WAY_OUT = (
    "prepare the dataset as the model's was; or leave initial_model out and, if you know that the weights fit, set "
    "them in build_model: model.set_weights(sparkdl.load_model(…).keras_model.get_weights())"
)
# The parameters of a numeric encoder that its scale does not use.
_NOT_THE_SCALE = {"standardize": ("low", "high"), "minmax": ("mean", "std"), "none": ("mean", "std", "low", "high")}


def check_initial_model(model_dir: str, dataset: Dataset, target: str, *, weights: str = "all") -> None:
    """Raise ModelError unless a trained model's inputs and labels are encoded as those of the dataset.

    With `weights="matching"` they may differ: ranks then compare, layer by layer, what depends on them.
    """
    signature = Signature.read(model_dir)
    if weights == "matching":
        return
    _check(model_dir, "features", signature.inputs, dataset.encoders)
    if target != "label" or signature.target != "label":
        return
    if not signature.labels:
        log.warning("initial_model=%s does not tell its labels: nothing compares the order of classes", model_dir)
        return
    _check(model_dir, "labels", signature.labels, dataset.label_encoders)


def _check(model_dir: str, what: str, old: Sequence[Encoder], new: Sequence[Encoder]) -> None:
    before, now = ([encoder.name for encoder in encoders] for encoders in (old, new))
    if before != now:
        raise ModelError(
            f"initial_model={model_dir} was trained on {what} {shown(before)}, the dataset has {shown(now)}: its "
            f"weights mean something else; {_WAY_OUT}"
        )
    for one, other in zip(old, new, strict=True):
        if found := encoder_difference(one, other):
            raise ModelError(
                f"initial_model={model_dir} was trained on {what} that are encoded otherwise: {found}: its weights "
                f"mean something else; {_WAY_OUT}"
            )


def encoder_difference(one: Encoder, other: Encoder) -> str | None:
    """Describe the first difference in the values that two encoders give, as `age.mean was 1, is 2`; None: equal."""
    return first_difference(*_values(one.to_json(), other.to_json()), one.name)


def _values(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the parts of two encoders that determine their values; a fill that only one has is left out."""
    left_out = {"store", "column_shape"} | ({"fill"} if None in (old.get("fill"), new.get("fill")) else set())
    if old["kind"] == new["kind"] == "numeric" and old["scale"] == new["scale"]:
        left_out |= set(_NOT_THE_SCALE[old["scale"]])
    one, other = ({k: v for k, v in encoder.items() if k not in left_out} for encoder in (old, new))
    return json.loads(json.dumps(one)), json.loads(json.dumps(other))  # as JSON, lists and tuples are equal
