"""Make an optimizer average gradients over ranks before it applies them: Horovod's `DistributedOptimizer`.

Runs in rank processes. The `apply` of the optimizer's *instance* is replaced: class and saved configuration stay the
user's, so that a saved model loads where neither Horovod nor sparkdl is installed.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import horovod.tensorflow as hvd
import keras

from sparkdl.checks import is_whole
from sparkdl.compat.horovod_keras.passes import Passes
from sparkdl.compat.horovod_keras.reduction import Reduction
from sparkdl.errors import ConfigError, shown
from sparkdl.train.exact.optimizers import inner_optimizers

__all__ = ["DistributedApply", "DistributedOptimizer", "PartialDistributedOptimizer", "distributed_apply"]


class DistributedApply:
    """Stand in for the `apply` of an optimizer: reduce the gradients, then call the optimizer's own."""

    def __init__(self, optimizer: Any, reduction: Reduction, passes: Passes | None) -> None:
        self.passes = passes
        self._optimizer = optimizer
        self._apply = optimizer.apply
        self._reduction = reduction
        self._suspended = False

    def __call__(self, grads: Sequence[Any], trainable_variables: Sequence[Any] | None = None) -> None:
        """Apply the ranks' mean or sum of the gradients, as `keras.optimizers.Optimizer.apply` does."""
        if self._suspended or len(grads) == 0:
            self._apply(grads, trainable_variables)
            return
        variables = self._variables(trainable_variables)
        if self.passes is None:
            self._apply(self._reduction(grads, variables), variables)
            return
        if not self._optimizer.built:  # an optimizer makes no variables within a branch
            with keras.name_scope(self._optimizer.name, caller=self._optimizer):
                self._optimizer.build(variables)
        self.passes.add(
            self._reduction.made_dense(grads),
            variables,
            update=lambda totals: self._apply(self._reduction(totals, variables), variables),
            # Schedules of the learning rate count the passes, as with Horovod.
            skip=lambda: self._optimizer.iterations.assign_add(1),
        )

    def reduced(self, grads: Sequence[Any], trainable_variables: Sequence[Any] | None) -> list[Any]:
        """Reduce gradients without applying them."""
        return self._reduction(grads, self._variables(trainable_variables))

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """Apply gradients as they are, within the block."""
        self._suspended = True
        try:
            yield
        finally:
            self._suspended = False

    def _variables(self, trainable_variables: Sequence[Any] | None) -> list[Any]:
        if trainable_variables is not None:
            return list(trainable_variables)
        return list(self._optimizer._trainable_variables)


def distributed_apply(optimizer: Any) -> DistributedApply | None:
    """Return what `DistributedOptimizer` has given this optimizer, None for any other optimizer."""
    found = vars(optimizer).get("apply") if isinstance(optimizer, keras.optimizers.Optimizer) else None
    return found if isinstance(found, DistributedApply) else None


def DistributedOptimizer(
    optimizer: Any,
    name: str | None = None,
    device_dense: str = "",
    device_sparse: str = "",
    compression: Any = hvd.Compression.none,
    sparse_as_dense: bool = False,
    gradient_predivide_factor: float = 1.0,
    op: Any = hvd.Average,
    backward_passes_per_step: int = 1,
    average_aggregated_gradients: bool = False,
    num_groups: int = 0,
    groups: Any = None,
    process_set: Any = hvd.global_process_set,
    scale_local_gradients: bool = True,
) -> Any:
    """Make the optimizer average gradients over ranks before it clips and applies them. Returns the optimizer itself.

    Args:
        optimizer: a Keras optimizer; its state and configuration stay as they are.
        name: the beginning of the operations' names; "Distributed" and the optimizer's class by default.
        device_dense, device_sparse: the devices on which dense and sparse gradients are reduced; by default where
            they are.
        compression: `hvd.Compression.none` or `hvd.Compression.fp16`, the form in which gradients are sent.
        sparse_as_dense: whether gradients of embeddings are sent as a whole instead of as the rows that were used.
        gradient_predivide_factor: what gradients are divided by before they are summed over ranks, and multiplied by
            afterwards.
        op: `hvd.Average` or `hvd.Sum`.
        backward_passes_per_step: the calls whose gradients are added up on each rank before they are reduced and
            applied. What is added up is not saved with a model.
        average_aggregated_gradients: whether such a sum is divided by its number of calls.
        num_groups: the old name of `groups`, as a number.
        groups: the number of groups of gradients that are reduced as one, or a list of the variables of each group.
        process_set: the ranks that take part; any other rank applies its own gradients.
        scale_local_gradients: whether the gradients of variables that were given to `optimizer.register_local_var` are
            divided by the number of ranks.

    Raises ConfigError for a value that is not possible, and for an optimizer that averages already.
    """
    _check(optimizer, name, compression, gradient_predivide_factor, op, process_set)
    local: list[Any] = []
    reduction = Reduction(
        name=name or f"Distributed{type(optimizer).__name__}",
        op=op,
        process_set=process_set,
        compression=compression,
        sparse_as_dense=sparse_as_dense,
        predivide_factor=gradient_predivide_factor,
        groups=_checked_groups(groups, num_groups),
        device_dense=device_dense,
        device_sparse=device_sparse,
        local_variables=lambda: [variable for given in local for variable in _variables_of(given)],
        scale_local_gradients=scale_local_gradients,
    )
    passes = _passes(optimizer, backward_passes_per_step, average_aggregated_gradients)
    # Past Keras' own __setattr__, which would track the values.
    object.__setattr__(optimizer, "apply", DistributedApply(optimizer, reduction, passes))
    object.__setattr__(optimizer, "register_local_var", local.append)
    return optimizer


def PartialDistributedOptimizer(optimizer: Any, *arguments: Any, local_layers: Any = None, **options: Any) -> Any:
    """Make the optimizer average all gradients but those of some layers, which stay each rank's own.

    Args:
        optimizer: a Keras optimizer.
        local_layers: a Keras layer, or a list of layers.
        arguments, options: those of `DistributedOptimizer`.
    """
    layers = [local_layers] if isinstance(local_layers, keras.Layer) else list(local_layers or ())
    if unknown := [layer for layer in layers if not isinstance(layer, keras.Layer)]:
        raise ConfigError(f"local_layers={shown(unknown)} must be Keras layers")
    optimizer = DistributedOptimizer(optimizer, *arguments, **options)
    for layer in layers:
        optimizer.register_local_var(layer)
    return optimizer


def _variables_of(given: Any) -> Iterable[Any]:
    """List a variable, or the variables that a layer has by now: before it is built it has none."""
    return given.trainable_weights if isinstance(given, keras.Layer) else [given]


def _check(optimizer: Any, name: Any, compression: Any, factor: Any, op: Any, process_set: Any) -> None:
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        raise ConfigError(
            f"optimizer={shown(optimizer)} must be an optimizer of Keras 3, such as keras.optimizers.Adam()"
        )
    if any(map(distributed_apply, (optimizer, *inner_optimizers(optimizer)))):
        raise ConfigError(
            f"optimizer {optimizer.name!r} is wrapped by hvd.DistributedOptimizer already, which returns the optimizer "
            "that it is given; use it as it is (hvd.load_model wraps, too)"
        )
    if not (name is None or isinstance(name, str)):
        raise ConfigError(f"name={shown(name)} must be a text or None")
    if not (hasattr(compression, "compress") and hasattr(compression, "decompress")):
        raise ConfigError(f"compression={shown(compression)} must be hvd.Compression.none or hvd.Compression.fp16")
    if op not in (hvd.Average, hvd.Sum):
        raise ConfigError(f"op={shown(op)} must be hvd.Average or hvd.Sum")
    if isinstance(factor, bool) or not isinstance(factor, (int, float)) or not factor > 0:
        raise ConfigError(f"gradient_predivide_factor={shown(factor)} must be a number above 0")
    if factor != 1 and op != hvd.Average:
        raise ConfigError(f"gradient_predivide_factor={factor} must be 1.0 with op=hvd.Sum; use op=hvd.Average")
    if not isinstance(process_set, hvd.ProcessSet):
        raise ConfigError(f"process_set={shown(process_set)} must be an hvd.ProcessSet")


def _checked_groups(groups: Any, num_groups: Any) -> int | Sequence[Sequence[Any]] | None:
    if num_groups != 0:
        if groups is not None:
            raise ConfigError(f"num_groups={shown(num_groups)} must be 0 where groups is given")
        warnings.warn("num_groups is an old name; use groups", DeprecationWarning, stacklevel=3)
        groups = num_groups
    if groups is None or (is_whole(groups) and groups > 0):
        return None if groups is None else int(groups)
    if isinstance(groups, list) and all(isinstance(group, (list, tuple)) for group in groups):
        return groups
    raise ConfigError(f"groups={shown(groups)} must be a whole number above 0 or a list of lists of variables")


def _passes(optimizer: Any, steps: Any, average: bool) -> Passes | None:
    if not is_whole(steps) or steps < 1:
        raise ConfigError(f"backward_passes_per_step={shown(steps)} must be a whole number above 0")
    if steps == 1:
        return None
    if inner_optimizers(optimizer):
        raise ConfigError(
            f"backward_passes_per_step={steps} must be 1 for a {type(optimizer).__name__}; use "
            "gradient_accumulation_steps of the optimizers within it"
        )
    if optimizer.gradient_accumulation_steps:
        raise ConfigError(
            f"backward_passes_per_step={steps} must be 1 where the optimizer itself has "
            f"gradient_accumulation_steps={optimizer.gradient_accumulation_steps}"
        )
    return Passes(steps, average=average)
