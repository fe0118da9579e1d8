"""Compare the signatures of the members of an ensemble. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from sparkdl.data.features import Encoder
from sparkdl.data.features.difference import encoder_difference
from sparkdl.errors import ModelError, shown
from sparkdl.model.signature import Signature

__all__ = ["check_alike"]


def check_alike(members: Sequence[tuple[str, Signature]]) -> None:
    """Raise ModelError unless all members, each its directory and signature, take and give the same.

    The inputs, their encoders with what was fitted, labels, outputs by name, shape and classes, and the default float
    must be the same; the kind of an output's values may differ.
    """
    (first_dir, first), *others = members
    for model_dir, other in others:
        if difference := _difference(first, other):
            raise ModelError(
                f"{model_dir} does not go together with {first_dir}: {difference}; train the members on one dataset"
            )


def _difference(one: Signature, other: Signature) -> str | None:
    """Describe the first difference, as `age.mean was 1, is 2`; None: they go together."""
    for what, a, b in (("inputs", one.inputs, other.inputs), ("labels", one.labels, other.labels)):
        if found := _encoders_differ(what, a, b):
            return found
    if one.target != other.target:
        return f"target was {one.target!r}, is {other.target!r}"
    if one.floatx != other.floatx:
        return f"Keras' default float was {one.floatx}, is {other.floatx}"
    names = [[output.name for output in signature.outputs] for signature in (one, other)]
    if names[0] != names[1]:
        return f"outputs were {shown(names[0])}, are {shown(names[1])}"
    for a_output, b_output in zip(one.outputs, other.outputs, strict=True):
        for what in ("shape", "dtype", "classes"):
            before, now = getattr(a_output, what), getattr(b_output, what)
            if before != now:
                return f"{what} of output {a_output.name!r} was {shown(before)}, is {shown(now)}"
    return None


def _encoders_differ(what: str, one: Sequence[Encoder], other: Sequence[Encoder]) -> str | None:
    names = [[encoder.name for encoder in encoders] for encoders in (one, other)]
    if names[0] != names[1]:
        return f"{what} were {shown(names[0])}, are {shown(names[1])}"
    found = (encoder_difference(a, b) for a, b in zip(one, other, strict=True))
    return next((difference for difference in found if difference), None)
