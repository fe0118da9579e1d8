"""Combine the predictions of several models for one output, with Keras' own operations alone.

Runs wherever a model is saved; needs Keras. What these functions make loads in Keras' safe mode, without sparkdl.
The values stay of the kind that the members give (probabilities, or logits), so that the members' loss, metrics and
threshold apply to them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from sparkdl.errors import ConfigError
from sparkdl.model.signature import Output

__all__ = ["combined", "combined_output"]


def combined_output(outputs: Sequence[Output], vote: str) -> Output:
    """Describe the combination of one output of each member.

    Raises ConfigError for an output that cannot be combined in this way; the message names it.
    """
    first, kinds = outputs[0], {output.values for output in outputs}
    if first.classes is None:
        if vote == "majority":
            raise ConfigError(
                f"vote='majority' is for classes, and output {first.name!r} has none; use vote='mean', or save the "
                "members without that output"
            )
        if first.numpy_dtype.kind != "f":
            raise ConfigError(f"output {first.name!r} is {first.dtype}, of which no mean is taken; cast it to a float")
        return first
    unknown = "unknown" in kinds and (vote == "mean" or first.is_scalar)
    mixed = len(kinds) > 1 and not kinds <= {"probabilities", "logits"}
    if unknown or (mixed and vote == "mean"):
        raise ConfigError(
            f"the values of output {first.name!r} are {' and '.join(sorted(map(str, kinds)))}: their mean has no "
            "meaning; use vote='majority', or save the members with sparkdl.save_model(…, logits=True or False)"
        )
    thresholds = sorted({output.threshold for output in outputs})
    if vote == "mean" and first.is_scalar and len(kinds) == 1 and len(thresholds) > 1:
        raise ConfigError(
            f"output {first.name!r} parts its classes at {thresholds} in the members, and a mean has one threshold; "
            "use vote='majority'"
        )
    kind = kinds.pop() if len(kinds) == 1 else "probabilities" if not mixed else "scores"
    kind = "scores" if kind == "unknown" else kind
    threshold = {"logits": 0.0, "probabilities": 0.5}.get(str(kind), first.threshold)
    if vote == "mean" and len(thresholds) == 1 and not (len({o.values for o in outputs}) > 1):
        threshold = first.threshold
    return Output(first.name, first.dtype, first.shape, first.classes, threshold, kind)


def combined(values: Sequence[Any], outputs: Sequence[Output], made: Output, vote: str) -> Any:
    """Combine the members' tensors of one output, each ``(rows, *shape)``, to one of the same shape.

    Args:
        outputs: the description of the output in each member.
        made: what `combined_output` returned for them.
        vote: "mean": the mean of values, for logits the logit of the mean probability; "majority": the share of the
            members that choose the class, as a probability or its logit.
    """
    import keras

    if vote == "majority":
        shares = keras.layers.Average()([_chosen(value, one) for value, one in zip(values, outputs, strict=True)])
        return _as_kind(shares, made)
    if made.values == "logits":
        return _mean_of_logits(values, scalar=made.is_scalar)
    kinds = {output.values for output in outputs}
    if len(kinds) > 1:
        values = [_probabilities(value, one) for value, one in zip(values, outputs, strict=True)]
    return keras.layers.Average()(list(values))


def _chosen(values: Any, output: Output) -> Any:
    """Return 1 for the class that a member chooses and 0 for the others; for one unit, 1 for the second class."""
    from keras import ops

    if output.is_scalar:
        return ops.cast(ops.greater(values, output.threshold), output.dtype)
    return ops.one_hot(ops.argmax(values, axis=-1), output.shape[-1], dtype=output.dtype)


def _as_kind(shares: Any, made: Output) -> Any:
    """Give shares of votes the form of the output's values; a tie of two classes lies on the threshold."""
    import keras
    from keras import ops

    if made.values == "logits":
        least = keras.config.epsilon()
        first = ops.log(ops.maximum(shares, least))
        return first - ops.log(ops.maximum(1.0 - shares, least)) if made.is_scalar else first
    return shares + (made.threshold - 0.5) if made.is_scalar and made.threshold != 0.5 else shares


def _mean_of_logits(values: Sequence[Any], *, scalar: bool) -> Any:
    """Return the logit of the mean probability: the logarithm of the mean, without leaving logarithms.

    log((1/n) * sum_m p_m) = logsumexp_m(log p_m) - log n; for one unit log(p / (1 - p)), where log n cancels.
    """
    from keras import ops

    if scalar:
        # log p = -softplus(-x), log(1 - p) = -softplus(x)
        second = ops.logsumexp(ops.stack([-ops.softplus(-value) for value in values]), axis=0)
        return second - ops.logsumexp(ops.stack([-ops.softplus(value) for value in values]), axis=0)
    logs = ops.stack([ops.log_softmax(value, axis=-1) for value in values])  # (members, rows, classes)
    return ops.logsumexp(logs, axis=0) - math.log(len(values))


def _probabilities(values: Any, output: Output) -> Any:
    from keras import ops

    if output.values == "probabilities":
        return values
    return ops.sigmoid(values) if output.is_scalar else ops.softmax(values, axis=-1)
