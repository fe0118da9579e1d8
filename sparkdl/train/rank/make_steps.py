"""Make the training steps of a run: judge the model, set their options, and average ranks that train alone.

Runs in rank processes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from sparkdl.launch.world import World
from sparkdl.train.class_weight import class_weights
from sparkdl.train.exact.findings import Inexact
from sparkdl.train.exact.instrument import StepOptions, reduced_layer_states
from sparkdl.train.exact.local_step import check_local
from sparkdl.train.exact.overrides import has_own_step
from sparkdl.train.exact.state.batch_norm import synced_layers
from sparkdl.train.exact.weight_average import WeightAverage
from sparkdl.train.exactness.judge import decide, judge
from sparkdl.train.rank.callbacks.learning_rate import LearningRates
from sparkdl.train.rank.resume import compile_as_before
from sparkdl.train.rank.run_steps import RunSteps
from sparkdl.train.rank.schedule import Schedule
from sparkdl.train.run.checkpoint import Checkpoint
from sparkdl.train.run.made_by import MadeBy
from sparkdl.train.spec import TrainSpec

__all__ = ["run_steps_of", "step_taker"]


def run_steps_of(
    task: TrainSpec,
    here: World,
    model: Any,
    example: tuple[Any, ...],
    made_by: MadeBy,
    resumed: Checkpoint | None,
    schedule: Schedule,
) -> RunSteps:
    """Make the steps of the run: those of the model as `build_model`, or a callback before the checkpoint, compiled it.

    Raises or warns where the model cannot be exact.
    """
    config, dataset = task.config, task.dataset
    labels = dataset.label_encoders if config.target == "label" else ()
    compilation, own = compile_as_before(model, resumed, example, labels)

    def rates_of() -> LearningRates:
        return LearningRates(
            model,
            lr_scaling=config.lr_scaling,
            warmup_epochs=config.warmup_epochs,
            global_batch_size=config.global_batch_size,
            steps=schedule.steps,
        )

    return RunSteps(
        task,
        model,
        example,
        here,
        built=made_by.model,
        own=own,
        in_epoch=resumed is not None and resumed.position.step > 0,
        options_of=lambda: _step_options(task, model, here),
        rates_of=rates_of,
        compilation=compilation,
    )


def _step_options(task: TrainSpec, model: Any, here: World) -> StepOptions:
    """Judge whether the model can be exact, and return the options of its steps; raises or warns where it cannot be."""
    config, dataset = task.config, task.dataset
    weights = class_weights(config.class_weight, dataset)
    findings = judge(
        model,
        dataset,
        dataset.split("train"),
        here,
        exactness=config.exactness,
        target=config.target,
        global_batch_size=config.global_batch_size,
        class_weights=weights is not None,
    )
    unweighted = _unweighted_norms(model, sync_all=config.sync_batch_norm)
    decide(unweighted, exactness=config.exactness, world_size=here.size, rank=here.rank)
    findings = replace(findings, inexact=(*findings.inexact, *unweighted))
    local = config.sync_every > 1 and here.size > 1
    if local:
        check_local(model, sync_every=config.sync_every)
    return StepOptions(
        seed=config.seed,
        global_batch_size=config.global_batch_size,
        compression=config.compression,
        sync_batch_norm=config.sync_batch_norm,
        class_weights=weights,
        per_worker=config.exactness == "per_worker",
        findings=findings,
        local=local,
    )


def _unweighted_norms(model: Any, *, sync_all: bool) -> list[Inexact]:
    """List the layers that normalize by all ranks' rows within a user's own train_step.

    The gradient of their moments reaches each rank from the losses of all ranks, which an own step has divided by its
    own rows: each rank counts alike, whatever its rows. `loss_parts` divides the losses of Keras' own step by all rows.
    """
    synced = synced_layers(model, sync_all=sync_all) if has_own_step(model) else []
    reason = (
        "normalizes by all workers' rows within an own train_step, which counts each worker alike, whatever its rows"
    )
    return [Inexact(f"layer {layer.name!r}", reason) for layer in synced]


def step_taker(task: TrainSpec, model: Any, run_steps: RunSteps, schedule: Schedule) -> Callable[[int, Any], Any]:
    """Return the function that takes a step of an epoch, given its number and the data; within the run's steps."""
    if not run_steps.options.local:
        return lambda step, data: model.train_function(data)

    def average() -> WeightAverage:
        states = reduced_layer_states(model, run_steps.options.findings)
        return WeightAverage(model, states, run_steps.numbers, every=task.config.sync_every, steps=schedule.steps)

    # A compilation in mid-run gives the model another optimizer, whose state is averaged from then on.
    current = [average()]
    run_steps.followed.append(lambda: current.__setitem__(0, average()))
    return lambda step, data: current[0].take_step(step, data)
