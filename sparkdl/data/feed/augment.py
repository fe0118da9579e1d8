"""Change the rows of a training step by a function of the user's, each row by another seed.

Runs in rank processes. The function sees one row, and its seed is the row's wherever the row is trained on
(`EpochPlan.row_seeds`): what a row becomes cannot depend on ranks, batches or interruptions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from sparkdl.data.augment_form import function_name, takes_targets
from sparkdl.errors import ConfigError

__all__ = ["augment_rows"]


def augment_rows(augment: Callable[..., Any], inputs: Any, targets: Any, seeds: tf.Tensor) -> tuple[Any, Any]:
    """Return inputs and targets with each row changed by `augment`; inside a graph.

    Args:
        augment: a function of (inputs, seed) that returns inputs, or of (inputs, targets, seed) that returns
            (inputs, targets): of one row, in the structure, shapes and dtypes in which it gets them.
        inputs, targets: a tensor, or a dict of tensors, each of shape ``(rows, *shape)``.
        seeds: int64, shape ``(rows, 2)``.

    Raises ConfigError where the function returns other structures, shapes or dtypes.
    """
    both = takes_targets(augment)
    given = (inputs, targets) if both else (inputs,)
    specs = tf.nest.map_structure(lambda tensor: tf.TensorSpec(tensor.shape[1:], tensor.dtype), given)

    def one(row: Any) -> Any:
        values, seed = row
        made = augment(*values, seed)
        return _checked(augment, made if both else (made,), specs)

    made = tf.map_fn(one, (given, seeds), fn_output_signature=specs)
    return made[0], made[1] if both else targets


def _checked(augment: Callable[..., Any], made: Any, specs: tuple[Any, ...]) -> Any:
    """Return what the function made of a row as tensors. Raises ConfigError unless it is as `specs` describe it."""
    name = f"augment={function_name(augment)}"
    if len(specs) == 2 and not (isinstance(made, tuple) and len(made) == 2):
        raise ConfigError(f"{name} must return (inputs, targets), and returned {_said(made)}")
    checked = []
    for role, values, expected in zip(("inputs", "targets"), made, specs, strict=False):
        named = isinstance(expected, dict)
        if named and not (isinstance(values, dict) and set(values) == set(expected)):
            raise ConfigError(f"{name} must return {role} as a dict of {', '.join(expected)}; it gave {_said(values)}")
        if not named and isinstance(values, (dict, list, tuple)):
            raise ConfigError(f"{name} must return {role} as one tensor, as it gets them; it gave {_said(values)}")
        parts = (
            {
                key: _tensor(f"{name} must return {role}{f' {key!r}' if named else ''}", value, spec)
                for key, value, spec in ((k, values[k], expected[k]) for k in expected)
            }
            if named
            else _tensor(f"{name} must return {role}", values, expected)
        )
        checked.append(parts)
    return tuple(checked)


def _tensor(must: str, value: Any, spec: tf.TensorSpec) -> tf.Tensor:
    tensor = tf.convert_to_tensor(value)
    if tensor.dtype != spec.dtype or not spec.shape.is_compatible_with(tensor.shape):
        raise ConfigError(
            f"{must} as {spec.dtype.name} {list(spec.shape)} for a row, which the model gets in validation too; "
            f"it gave {tensor.dtype.name} {tensor.shape}; use tf.cast, tf.saturate_cast or tf.reshape"
        )
    return tf.ensure_shape(tensor, spec.shape)


def _said(values: Any) -> str:
    if isinstance(values, dict):
        return f"a dict of {', '.join(map(str, values)) or 'nothing'}"
    return f"a {type(values).__name__}" + (f" of {len(values)}" if isinstance(values, (list, tuple)) else "")
