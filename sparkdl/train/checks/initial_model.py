"""Check that a trained model's inputs and classes are encoded as those of the dataset that a new run trains on.

Runs on the driver, before any rank starts. With other encoders the model's weights would mean something else.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from sparkdl.data.dataset import Dataset
from sparkdl.data.features import Encoder
from sparkdl.data.features.difference import encoder_difference
from sparkdl.errors import ModelError, shown
from sparkdl.model.signature import Signature

__all__ = ["check_initial_model"]

log = logging.getLogger(__name__)

_WAY_OUT = (
    "prepare the dataset as the model's was; or leave initial_model out and, if you know that the weights fit, set "
    "them in build_model: model.set_weights(sparkdl.load_model(…).keras_model.get_weights())"
)


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
