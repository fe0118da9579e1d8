"""Make a compiled Keras model's step exact over ranks: the update is the gradient of the loss over the global batch.

Runs in rank processes. The model's *instance* is instrumented for the time of a run; its class, its optimizer's class
and its saved configuration stay the user's.

A rank differentiates its share of the global batch's loss, each part of the loss divided by its own denominator over
all ranks (`loss_parts`); one grouped allreduce sums the gradients, together with the loss and requests to stop, before
the user's own loss scaling, clipping and optimizer. A rank without rows is fed one padding row that counts for nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from sparkdl.errors import ModelError
from sparkdl.launch.world import World
from sparkdl.train.class_weight import ClassWeights
from sparkdl.train.exact.counters import ROWS, StepCounters
from sparkdl.train.exact.custom_step import CustomSteps
from sparkdl.train.exact.findings import Findings
from sparkdl.train.exact.gradients import GradientSum
from sparkdl.train.exact.keras_step import KerasSteps, StepFunction
from sparkdl.train.exact.local_step import LocalSteps
from sparkdl.train.exact.loss_parts import loss_parts
from sparkdl.train.exact.overrides import has_own_step
from sparkdl.train.exact.patch import patched
from sparkdl.train.exact.rng import SeededDraws, seed_generators
from sparkdl.train.exact.state.batch_norm import SyncedMoments, synced_layers
from sparkdl.train.exact.state.metrics import averaged_by_rows, leaf_metrics, metrics_by_rows, reduced_states
from sparkdl.train.exact.state.moving_state import MovingState, layer_states

__all__ = ["StepCounters", "StepOptions", "compiled_within", "exact_steps", "reduced_layer_states"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepOptions:
    """Hold the options of steps.

    Attributes:
        seed, global_batch_size, compression, sync_batch_norm: as in TrainConfig.
        class_weights: the weight of each class of the one categorical label, by the class's code; or of several
            labels by their names; None: no weights.
        findings: the findings about the model; what is not exact is computed per rank and averaged by rows.
        per_worker: whether values that cannot be exact are accepted, averaged over ranks.
        local: whether ranks take training steps alone; `WeightAverage` averages them. Not for a single rank.
    """

    seed: int = 0
    global_batch_size: int = 0
    compression: str | None = None
    sync_batch_norm: bool = False
    class_weights: ClassWeights | None = None
    findings: Findings = field(default_factory=Findings)
    per_worker: bool = False
    local: bool = False


@contextmanager
def exact_steps(
    model: Any,
    world: World,
    example: tuple[Any, ...],
    options: StepOptions | None = None,
    *,
    numbers: StepCounters | None = None,
    compile_by: Callable[..., None] | None = None,
) -> Iterator[StepCounters]:
    """Make the model's `fit` and `evaluate` take elements of `step_dataset`, exact over ranks, within the block.

    Args:
        model: a checked and built model.
        example: symbolic (inputs, targets) or (inputs, targets, weights).
        numbers: counters that outlive the block; None: new ones.
        compile_by: called in place of the model's `compile`; None: `compile` is refused.
    """
    options, numbers = options or StepOptions(), numbers or StepCounters(0)
    moments = SyncedMoments()
    draws = SeededDraws(seed_generators(model), seed=options.seed, rank=world.rank)
    # The ranks that take a training step together.
    together = 1 if options.local else world.size
    shared: dict[str, Any] = {
        "gradients": GradientSum(
            world_size=together, compression=options.compression, global_batch_size=options.global_batch_size
        ),
        "state": MovingState([] if together == 1 else reduced_layer_states(model, options.findings)),
        "draws": draws,
        "moments": moments,
        "class_weights": options.class_weights,
        "summed_metrics": options.findings.summed_metrics,
    }
    synced = synced_layers(model, sync_all=options.sync_batch_norm) if world.size > 1 else []
    jit_compile, model.jit_compile = model.jit_compile, False
    # Functions that the user's own training left would go on with Keras' steps.
    model.train_function = model.test_function = None
    try:
        with ExitStack() as stack:
            stack.enter_context(moments.of(synced))
            stack.enter_context(draws.prepared())
            stack.enter_context(metrics_by_rows(model, options.findings.single_values))
            steps: KerasSteps | CustomSteps
            if has_own_step(model):
                numbers.resize(0)
                steps = CustomSteps(model, numbers, per_worker=options.per_worker, **shared)
                stack.enter_context(steps.edges())
                if jit_compile:
                    log.warning("jit_compile is switched off for model %s: it has its own steps", model.name)
            else:
                losses = stack.enter_context(loss_parts(model, world_size=together))
                numbers.resize(losses.count)
                kind = LocalSteps if options.local else KerasSteps
                steps = kind(model, numbers, losses, example=example, **shared)
                if jit_compile:
                    steps.use_xla()
            averaged = options.findings.averaged_metrics if world.size > 1 else ()
            methods = _methods(model, steps, numbers, averaged)
            stack.enter_context(patched(model, {**methods, "compile": compile_by or _refuse_compile(model)}))
            yield numbers
    finally:
        model.jit_compile = jit_compile
        # Compiled functions still hold the exact steps.
        model.train_function = model.test_function = None


def compiled_within(model: Any) -> ModelError:
    """Make the error for a `compile` that the steps of a run cannot follow."""
    return ModelError(
        f"model {model.name!r} was compiled within a run, whose steps hold its loss, optimizer and trainable weights; "
        "compile it in a callback's on_epoch_begin or on_epoch_end, on every rank; or train in two runs: the second "
        "one's build_model sets trainable and compiles as it then shall be, with TrainConfig(initial_model="
        "first.model_dir). A rate is set by self.model.optimizer.learning_rate = …"
    )


def _refuse_compile(model: Any) -> Callable[..., None]:
    def refuse(*_: Any, **__: Any) -> None:
        raise compiled_within(model)

    return refuse


def reduced_layer_states(model: Any, findings: Findings) -> list[tuple[Any, str]]:
    """List the layers' state variables, each with its reduction: without findings the declared one, or "mean"."""
    states = layer_states(model)
    reductions = findings.states or [state.reduction or "mean" for state in states]
    return [(state.variable.value, reduction) for state, reduction in zip(states, reductions, strict=True)]


def _methods(
    model: Any, steps: KerasSteps | CustomSteps, numbers: StepCounters, averaged: Sequence[int]
) -> dict[str, Any]:
    """Make the attributes that replace the model's own.

    `averaged`: the indexes of the metrics whose results are averaged over ranks, weighted by rows, since their states
    cannot be reduced.
    """
    original_result, original_reset = model.get_metrics_result, model.reset_metrics
    leaves = leaf_metrics(model.metrics)
    reduced = [metric for index, metric in enumerate(leaves) if index not in averaged]

    def make_train_function(force: bool = False) -> None:
        if model.train_function is None or force:
            model.train_function = StepFunction(model)

    def reset_metrics() -> None:
        original_reset()
        numbers.start_test()

    def results(logs: dict[str, Any]) -> dict[str, Any]:
        """Return the metrics of an epoch or an evaluation, given the logs of its last step."""
        testing = ROWS in logs
        with reduced_states(reduced):
            # A result may be a metric's variable itself, which has another value after the block.
            metrics = {name: np.array(keras.ops.convert_to_numpy(value)) for name, value in original_result().items()}
        if averaged:
            metrics = averaged_by_rows(metrics, numbers.rows(testing=testing))
        return steps.results(metrics, testing=testing, logs=logs)

    return {
        "train_step": steps.train_step,
        "test_step": steps.test_step,
        "make_train_function": make_train_function,
        "reset_metrics": reset_metrics,
        "_get_metrics_result_or_logs": results,
        "steps_per_execution": 1,
    }
